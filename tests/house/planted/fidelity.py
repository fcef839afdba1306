"""What rounding leaves of a change: measured in merges, estimated from samples."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

FIDELITY: Final = (
    Mutant(
        "unchanged-though-nothing-was-to-change",
        "_count_changed",
        "np.logical_and(is_changed, is_moved, out=is_moved)",
        "np.logical_or(is_changed, is_moved, out=is_moved)",
        "fidelity:test_measured.py",
    ),
    Mutant(
        "rounded-base-not-subtracted",
        "sums",
        "moved -= in_dtype(before, after.dtype)",
        "moved -= before",
        "test_small_and_large_deltas[bf16-0.001]",
    ),
    Mutant(
        "squares-that-were-lost",
        "Sums.is_exact",
        "return not self.changed or",
        "return True or",
        "test_tiny_deltas_keep_their_digits",
    ),
    Mutant(
        "sample-out-of-proportion",
        "SlotMeter.total",
        "return found.times(rows * self.values.slot.columns / found.elements) if found.elements else found",
        "return found",
        "test_small_and_large_tensors_count_by_their_size",
    ),
    Mutant(
        "token-rows-measured",
        "SlotMeter._without_replaced",
        "if first + row not in self._replaced",
        "if first + row in self._replaced",
        "fidelity:test_measured.py",
    ),
    Mutant(
        "replaced-values-measured",
        "FidelityMeter.slot",
        "if any(isinstance(step, Replace) for step in steps):",
        "if all(isinstance(step, Replace) for step in steps):",
        "fidelity:test_measured.py",
    ),
    Mutant(
        "figures-of-a-part",
        "FidelityMeter.result",
        "if any(slot.missing for slot in self._slots.values())",
        "if all(slot.missing for slot in self._slots.values())",
        "test_figures_wait_for_every_tensor",
    ),
    Mutant(
        "factors-of-the-first-rows",
        "SlotValues.added_to",
        "left[rows.start : rows.stop : rows.step]",
        "left[: rows.stop - rows.start : rows.step]",
        "test_small_and_large_deltas[bf16-0.001]",
    ),
    Mutant(
        "link-against-the-base",
        "_Unit.sums",
        "self._sums(now, after, kept)",
        "self._sums(origin, after, kept)",
        "fidelity:test_estimate.py",
    ),
    Mutant(
        "interval-too-narrow",
        "ratio",
        "spread / many / total**2",
        "spread / many / many**2 / total**2",
        "test_intervals_hold_the_truth",
    ),
    Mutant(
        "receipt-forgets-what-was-measured",
        "already_there",
        '"fidelity": fuller(receipt.fidelity, there.fidelity)',
        '"fidelity": receipt.fidelity',
        "artifacts:test_fidelity.py",
    ),
)
