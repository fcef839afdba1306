"""Bugs planted in combinations."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

COMBINED: Final = (
    Mutant(
        "weight-left-out",
        "WeighedPath.weighed",
        "link.coefficient * self.weight",
        "link.coefficient",
        "test_random_siblings_of_all_dtypes",
    ),
    Mutant(
        "combined-in-float32",
        "combined:combined",
        "sums=torch.float64",
        "sums=torch.float32",
        "test_past_the_rank_of_the_matrix",
    ),
    Mutant(
        "dora-combined",
        "_refuse_dora",
        "if pair.magnitude is not None:",
        "if False:",
        "test_a_dora_is_refused_by_name",
    ),
    Mutant(
        "disagreement-not-seen",
        "_check_values_agree",
        "if row is not None:",
        "if False:",
        "test_replaced_values_that_disagree_are_refused_by_name",
    ),
    Mutant(
        "one-source-disagrees-with-nobody",
        "_check_values_agree",
        "for other, value in zip(sources, values, strict=True):",
        "for other, value in list(zip(sources, values, strict=True))[:1]:",
        "test_replaced_values_that_disagree_are_refused_by_name",
    ),
    Mutant(
        "retraction-stops-at-sources",
        "ancestry:read",
        "own = of_sources(session, combined) | _retractions(session, withdrawn)",
        "own = _retractions(session, withdrawn)",
        "test_a_retracted_source_takes_it_down",
    ),
    Mutant(
        "source-told-by-its-old-name",
        "_called_now",
        "why if now not in there else",
        "why if True else",
        "test_a_retracted_source_is_told_by_the_name_that_it_has_now",
    ),
    Mutant(
        "handed-out-without-its-source",
        "_with_sources",
        "if not taken:",
        "if True:",
        "test_a_retracted_source_takes_it_down",
    ),
    Mutant(
        "served-without-its-source",
        "served",
        "*(row.id for row in rows if row.combined)",
        "",
        "test_the_views_serve_it_until_a_source_is_retracted",
    ),
    Mutant(
        "resolved-without-its-source",
        "with_sources",
        "if key in taken",
        "if False",
        "test_a_retracted_source_takes_it_down",
    ),
    Mutant(
        "source-deleted",
        "_check_uncombined",
        "if not standing:",
        "if True:",
        "test_a_source_stays_while_a_combination_stands_on_it",
    ),
    Mutant(
        "restored-without-its-source",
        "_lock_what_they_are_made_of",
        "if source not in there:",
        "if False:",
        "test_a_source_stays_while_a_combination_stands_on_it",
    ),
    Mutant(
        "renamed-sources-stay-old",
        "copy_details",
        "session.execute(update(_SOURCES).where(made_of).values(source_id=new_source))",
        "del made_of, new_source",
        "test_it_goes_on_under_another_name",
    ),
    Mutant(
        "hidden-source-shown",
        "sources_shown",
        "seen = row.path is not None",
        "seen = True",
        "test_what_a_token_may_not_see_can_not_be_combined",
    ),
    Mutant(
        "given-twice",
        "_check_repeated",
        "if path.tip in seen:",
        "if False:",
        "test_what_means_nothing_is_refused",
    ),
    Mutant(
        "replay-believes",
        "_replayed",
        "close = apart <= _CLOSE",
        "close = True",
        "test_verify_makes_it_again",
    ),
)
