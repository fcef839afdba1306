"""Heaps of folders that PEFT merged, receipts lost: every revision is found, and no trap is ever pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.publishing.parent_heap import try_heap


@pytest.mark.long_on("1")
@pytest.mark.slow
@pytest.mark.usefixtures("real_times")
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30))])
def test_no_wrong_pin(tmp_path: Path, seed: int) -> None:
    outcomes = try_heap(tmp_path, seed)
    revisions = {what: count for what, count in outcomes.items() if what.startswith("revision")}
    lost = revisions.pop("revision: parent_ambiguous", 0)
    assert set(revisions) == {"revision: compared", "revision: compared_untimed"}
    assert revisions["revision: compared"] == revisions["revision: compared_untimed"] > lost
    traps = [what for what in outcomes if what.startswith(("unknown", "stranger", "wrong"))]
    assert not any("compared" in what for what in traps)
