"""Deltas beside each other."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

DELTAS: Final = (
    Mutant(
        "small-angles-from-cosines",
        "principal_angles",
        "cosines**2 < 0.5",
        "cosines**2 < 2.0",
        "test_small_angles_come_from_their_sines",
    ),
    Mutant(
        "angles-between-whole-spaces",
        "split_core",
        "values[:rank], right[:rank]",
        "values[:rank], right",
        "test_cores.py",
    ),
    Mutant(
        "rounding-is-a-direction",
        "split_core",
        "values > max(noise, relative * values[0].item())",
        "values > 0",
        "test_cores.py",
    ),
    Mutant(
        "tied-in-one-of-two-paths",
        "changed_side_by_side",
        "for module in path.untied",
        "for module in path.tied",
        "test_modules_that_only_one_path_parts_count_on_both_sides",
    ),
    Mutant(
        "the-ancestor-since-itself",
        "_spans",
        'return (0, len(mine), "a")',
        'return (len(mine) - 1, len(mine), "a")',
        "test_siblings_parent_and_child_and_depths_are_what_dense_matrices_say[llama-patterns]",
    ),
    Mutant(
        "undone-of-the-child",
        "_agreement",
        '(a, b) if undone_of == "a" else (b, a)',
        "(a, b)",
        "test_siblings_parent_and_child_and_depths_are_what_dense_matrices_say[llama-patterns]",
    ),
    Mutant(
        "other-weights-compared",
        "_digests_of_base",
        "return path.base.digest, path.base.table_digest",
        'return path.base.table_digest, ""',
        "test_what_cannot_be_compared",
    ),
    Mutant(
        "children-with-their-parents",
        "children_deltas",
        "links.since(one, len(one.links) - 1)",
        "links.since(one, 0)",
        "test_all_pairs_of_children",
    ),
)
