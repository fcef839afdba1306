"""Searches by statistics, factors and dense changes."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_CHANGES: Final = "test_what_a_path_changes_and_what_its_last_link_does"
_DENSE: Final = "test_every_change_is_what_dense_matrices_say"

DENSE: Final = (
    Mutant(
        "statistics-or",
        "tree:search",
        "*map(search_conditions.number, compared)",
        "*map(search_conditions.number, compared[:1])",
        "test_searches_by_statistics_that_were_computed[embedded]",
    ),
    Mutant(
        "ties-of-older-revisions",
        "_Query._walked",
        "own.append(order.place_of(last.path) < PLACE)",
        "held += self._rest(PLACE, Revision.number.expression, None)",
        "test_pages_by_a_metric_together_are_the_whole",
    ),
    Mutant(
        "changes-of-the-whole-path",
        "ChangedWeights._before",
        "self._links[: self.since]",
        "self._links[:0]",
        f"{_CHANGES}[llama-dora]",
    ),
    Mutant(
        "dora-as-a-product",
        "ChangedWeights.only_adds",
        "not matrix.is_scaled(self.since) and not matrix.is_replaced(self.since)",
        "not matrix.is_replaced(self.since)",
        f"{_CHANGES}[llama-dora]",
    ),
    Mutant(
        "transposed-block",
        "ChangedWeights._blocks_of",
        "yield Block(slice(*out), rows, old.T, new.T)",
        "yield Block(rows, slice(*out), old, new)",
        f"{_CHANGES}[gpt2-dora positions]",
    ),
    Mutant(
        "experts-without-what-was-before",
        "_Sorting._experts",
        "known.get(slot) or Program(slot, (), slot)",
        "Program(slot, (), slot)",
        f"{_DENSE}[mixtral-one of each]",
    ),
    Mutant(
        "cosines-of-the-other-side",
        "_Measuring._cosines",
        "(base.vectors.T @ back) / base.values[:, None] / tuned.values",
        "base.vectors.T @ tuned.vectors",
        "test_an_intruder_is_found",
    ),
    Mutant(
        "triangle-of-the-last-rows",
        "_Triangle._reduce",
        "torch.cat(self._parts)",
        "self._parts[-1]",
        "test_blocks_of_a_few_rows_are_what_whole_ones_are[llama-dora]",
    ),
    Mutant(
        "closed-while-used",
        "LastOpened._drop",
        "if not held.users:",
        "if held.dropped:",
        "test_last_opened.py",
    ),
)
