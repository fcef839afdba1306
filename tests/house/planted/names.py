"""Other repo ids of base models, what another Hub is asked about, and lists of tags."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

NAMES: Final = (
    Mutant(
        "ids-of-sources-before-those-given",
        "base_answering",
        "if _is_given(session, repo_id):",
        "if False:",
        "test_what_is_given_comes_before_sources_and_the_first_of_them_first[sqlite]",
    ),
    Mutant(
        "hidden-names-told-to-another-hub",
        "begins_with_a_base",
        "if seen else _EVERYTHING",
        "if seen else {}",
        "test_what_other_hubs_are_not_asked_about[sqlite]",
    ),
    Mutant(
        "a-tag-that-came-back-as-if-it-never-went",
        "tag_moves:listed",
        "of_tags.c.restored > func.coalesce(of_tags.c.moved, 0)",
        "of_tags.c.restored < 0",
        "test_what_went_with_its_revision_and_came_back_is_there_since_then[sqlite]",
    ),
    Mutant(
        "pages-of-tags-end-before-what-is-not-known",
        "tag_moves:_rest",
        "or_(beyond, value.is_(None), ",
        "or_(beyond, ",
        "test_old_names_are_listed_where_they_are_asked_for[sqlite]",
    ),
    Mutant(
        "metrics-against-those-of-now",
        "tag_moves:_state",
        "metrics.get(row.before_id, {})",
        "metrics.get(row.id, {})",
        "test_a_tag_says_what_it_names_since_when_by_whom_and_what_it_named_before[sqlite]",
    ),
)
