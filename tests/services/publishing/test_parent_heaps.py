"""Heaps of folders that PEFT merged, receipts lost: every revision is found, and no trap is ever pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.publishing.parent_heap import try_heap


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 30))])
def test_no_wrong_pin(tmp_path: Path, seed: int) -> None:
    outcomes = try_heap(tmp_path, seed)
    revisions = {what: count for what, count in outcomes.items() if what.startswith("revision")}
    assert set(revisions) <= {"revision: found", "revision: parent_ambiguous"}
    assert revisions["revision: found"] > revisions.get("revision: parent_ambiguous", 0)
    assert not any(what.endswith("found") for what in outcomes if what.startswith(("unknown", "stranger", "wrong")))
