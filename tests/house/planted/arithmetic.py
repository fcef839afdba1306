"""Sums, slots and programs."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import CHECKPOINT, MODULES, PROGRAMS, SLOTS, VARIANTS, Mutant, link

ARITHMETIC: Final = (
    Mutant("scale-dropped", "tensors/path/steps.py", "(rows * self.scale)", "rows", SLOTS),
    Mutant(
        "rank-order",
        "tensors/path/slot_values.py",
        "for pair in pairs], dim=1)",
        "for pair in reversed(pairs)], dim=1)",
        SLOTS,
    ),
    Mutant(
        "base-rounded-first",
        "tensors/path/slot_values.py",
        "values[:rows].copy_(stored)",
        "values[:rows].copy_(stored.bfloat16())",
        SLOTS,
    ),
    Mutant(
        "first-block-again",
        "tensors/path/slot_values.py",
        "first = index * self.rows_a_block\n        if isinstance(stage, _Product)",
        "first = 0\n        if isinstance(stage, _Product)",
        SLOTS,
    ),
    Mutant(
        "round-a-slice",
        "tensors/arithmetic/blocks.py",
        "            sums.addmm_(",
        "            sums.copy_(sums.bfloat16()).addmm_(",
        SLOTS,
    ),
    Mutant(
        "last-rank-slice-lost",
        "tensors/arithmetic/blocks.py",
        "RANK_GROUP, rank), RANK_SLICE)",
        "RANK_GROUP, rank) - 1, RANK_SLICE)",
        "tests/tensors/arithmetic/test_blocks.py",
    ),
    Mutant(
        "round-twice",
        "tensors/arithmetic/rounding.py",
        "values = _to_odd(values)",
        "values = values.to(torch.float32)",
        "tests/tensors/arithmetic/test_rounding.py",
    ),
    Mutant(
        "overflow-let-through",
        "tensors/arithmetic/rounding.py",
        "low.item() > -limit and high.item() < limit",
        "low.item() == low.item()",
        "tests/tensors/arithmetic/test_rounding.py",
    ),
    Mutant(
        "lanes-of-two-threads",
        "tensors/arithmetic/lanes.py",
        "torch.set_num_threads(1)",
        "torch.set_num_threads(2)",
        "tests/tensors/arithmetic/test_lanes.py",
    ),
)

PATH: Final = (
    Mutant("norm-without-root", "tensors/path/slot_values.py", "return squares.sqrt()", "return squares", SLOTS),
    Mutant(
        "norm-of-the-last-block",
        "tensors/path/slot_values.py",
        "squares += column_squares(self._before(number, index))",
        "squares = column_squares(self._before(number, index))",
        SLOTS,
    ),
    Mutant(
        "norm-of-the-base-alone",
        "tensors/path/slot_values.py",
        "for earlier in range(number):",
        "for earlier in range(0):",
        SLOTS,
    ),
    Mutant(
        "magnitude-not-divided",
        "tensors/path/slot_values.py",
        "factors = magnitude / norms",
        "factors = magnitude * norms.sign()",
        SLOTS,
    ),
    Mutant(
        "magnitudes-of-the-first-rows",
        "tensors/path/slot_values.py",
        "[first : first + values.shape[0]]",
        "[: values.shape[0]]",
        SLOTS,
    ),
    Mutant(
        "later-pair-before-the-rescaling",
        "tensors/path/slot_values.py",
        "stages.append(_Product((step.pair,)))",
        "stages.insert(0, _Product((step.pair,)))",
        SLOTS,
    ),
    Mutant(
        "zero-norm-let-through",
        "tensors/path/slot_values.py",
        "bad = (norms == 0) | ~factors.isfinite()",
        "bad = norms < 0",
        SLOTS,
    ),
    Mutant(
        "token-rows-added",
        "tensors/path/slot_values.py",
        "values[row] = new[at].to(values.dtype)",
        "values[row] += new[at].to(values.dtype)",
        SLOTS,
    ),
    Mutant(
        "lora-survives-a-replacement",
        "tensors/path/programs.py",
        "                _drop(slot, steps, new)\n",
        "                steps[slot] = [one for one in steps.get(slot, ()) if isinstance(one, Add)]\n",
        PROGRAMS,
    ),
    Mutant(
        "first-writer-wins",
        "tensors/path/programs.py",
        "                _drop(slot, steps, new)\n",
        "                pass\n",
        f"{VARIANTS}::test_twice_on_a_narrow_base[conv-new conv]",
    ),
    Mutant(
        "new-head-of-the-earlier-shape",
        "tensors/path/programs.py",
        "if slot.tensor in new else [slot]:",
        "if False else [slot]:",
        "tests/services/test_new_heads.py",
    ),
    Mutant(
        "added-bias-unscaled",
        "tensors/path/programs.py",
        "Plain(pair.bias), scale, link.source",
        "Plain(pair.bias), 1.0, link.source",
        link("conv-lora bias"),
    ),
    Mutant(
        "rescaled-before-the-pair",
        "tensors/path/programs.py",
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        "        if pair.magnitude is not None:\n"
        "            yield slot_of_target(pair.target), Rescale(number, pair.magnitude, link.source, tied=pair.tied)\n"
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        link("conv-dora"),
    ),
    Mutant(
        "experts-replaced-by-the-first",
        "tensors/path/programs.py",
        "first = piece.expert * a_matrix + (",
        "first = 0 * a_matrix + (",
        PROGRAMS,
    ),
    Mutant(
        "one-side-changes-both",
        "tensors/path/programs.py",
        "for side in _sides(pair.target, table, all_of_them=pair.tied):",
        "for side in _sides(pair.target, table, all_of_them=True):",
        PROGRAMS,
    ),
    Mutant(
        "any-tie-may-part",
        "tensors/path/programs.py",
        "if len(group) != 2 or table.output_module not in group:",
        "if False:",
        PROGRAMS,
    ),
)

FACTORS: Final = (
    Mutant(
        "expert-major-as-rank-major",
        "tensors/factors/matrices.py",
        "return read_rows(source, self.entry, first + start, first + stop)",
        "return read_whole(source, self.entry)[self.expert :: self.entry.shape[0] // self.rank][start:stop]",
        f"{MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-b",
        "tensors/factors/matrices.py",
        "rows[:, self.expert :: self.experts]",
        "rows[:, self.expert * self.shape[1] : (self.expert + 1) * self.shape[1]]",
        f"{MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-turned-b",
        "tensors/factors/turned_experts.py",
        "whole[:, self.expert :: self.experts].T",
        "whole[:, self.expert * self.shape[0] : (self.expert + 1) * self.shape[0]].T",
        f"{MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "kernel-flattened-the-wrong-way",
        "tensors/factors/matrices.py",
        "return read_rows(source, self.entry, start, stop)",
        "return read_rows(source, self.entry, start, stop).view(stop - start, self.entry.shape[1], -1)"
        ".transpose(1, 2).flatten(1)",
        link("conv-plain"),
    ),
    Mutant(
        "blocks-swapped",
        "tensors/factors/matrices.py",
        "full[first:last, block * columns : (block + 1) * columns]",
        "full[first:last, (self.blocks - 1 - block) * columns : (self.blocks - block) * columns]",
        link("llama-blocks"),
    ),
    Mutant(
        "wrong-transposition",
        "tensors/table/targets.py",
        "in (TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "in ()",
        link("declared-linear"),
    ),
    Mutant(
        "conv1d-as-linear",
        "tensors/table/targets.py",
        "(TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "(TargetKind.EMBEDDING,)",
        CHECKPOINT,
    ),
    Mutant(
        "gate-and-up-swapped",
        "tensors/table/conversions.py",
        "_join(list(chain.from_iterable(inputs)),",
        "_join(list(chain.from_iterable(reversed(inputs))),",
        "tests/tensors/table/test_targets_conversions.py",
    ),
)
