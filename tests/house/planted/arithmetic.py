"""Sums, slots and programs."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import CHECKPOINT, PROGRAMS, SLOTS, Mutant, link

ARITHMETIC: Final = (
    Mutant("scale-dropped", "BoundPair.b_rows", " * self.scale)", ")", SLOTS),
    Mutant(
        "rank-order",
        "SlotValues._factors",
        "for pair in pairs], dim=1)",
        "for pair in reversed(pairs)], dim=1)",
        SLOTS,
    ),
    Mutant(
        "base-rounded-first",
        "SlotValues._begin",
        "values[:rows].copy_(stored)",
        "values[:rows].copy_(stored.bfloat16())",
        SLOTS,
    ),
    Mutant(
        "first-block-again",
        "SlotValues._apply",
        "first = index * self.rows_a_block\n        if isinstance(stage, _Product)",
        "first = 0\n        if isinstance(stage, _Product)",
        SLOTS,
    ),
    Mutant(
        "round-a-slice",
        "add_product",
        "sums.addmm_(",
        "sums.copy_(sums.bfloat16()).addmm_(",
        SLOTS,
    ),
    Mutant(
        "last-rank-slice-lost",
        "add_product",
        "RANK_GROUP, rank), RANK_SLICE)",
        "RANK_GROUP, rank) - 1, RANK_SLICE)",
        "test_blocks.py",
    ),
    Mutant(
        "round-twice",
        "round_into",
        "values = _to_odd(values)",
        "values = values.to(torch.float32)",
        "test_rounding.py",
    ),
    Mutant(
        "overflow-let-through",
        "fits",
        "low.item() > -limit and high.item() < limit",
        "low.item() == low.item()",
        "test_rounding.py",
    ),
    Mutant(
        "rounded-unchecked",
        "arithmetic:rounded",
        " or fits(values, dtype) else None",
        " or True else None",
        "test_rounding.py",
    ),
    Mutant(
        "sum-overflow-refused",
        "arithmetic:rounded",
        " or fits(values, dtype) else None",
        " else None",
        "test_rounding.py",
    ),
    Mutant(
        "scale-rounded-first",
        "BoundPair.b_rows",
        " or torch.tensor(self.scale, dtype=dtype).item() != self.scale",
        "",
        "test_slot_values.py",
    ),
    Mutant(
        "scratch-of-two",
        "scratch",
        "_own.memory = None  #",
        "_own.memory = held  #",
        "test_scratch.py",
    ),
    Mutant(
        "lanes-of-two-threads",
        "_single_threaded",
        "torch.set_num_threads(1)",
        "torch.set_num_threads(2)",
        "test_lanes.py",
    ),
)

PATH: Final = (
    Mutant(
        "bias-lost-with-the-tie",
        "path:_with_ties",
        "_let_go(programs, new, table) if untied",
        "_let_go(programs, new, table) if not untied",
        PROGRAMS,
    ),
    Mutant("norm-without-root", "row_norms", "return squares.sqrt()", "return squares", SLOTS),
    Mutant(
        "norm-of-the-last-block",
        "SlotValues._make_by_column",
        "squares += column_squares(self._before(number, index))",
        "squares = column_squares(self._before(number, index))",
        SLOTS,
    ),
    Mutant(
        "norm-of-the-base-alone",
        "SlotValues._before",
        "for earlier in range(number):",
        "for earlier in range(0):",
        SLOTS,
    ),
    Mutant(
        "magnitude-not-divided",
        "SlotValues._ratio",
        "factors = magnitude / norms",
        "factors = magnitude * norms.sign()",
        SLOTS,
    ),
    Mutant(
        "magnitudes-of-the-first-rows",
        "SlotValues._by_row",
        "[first : first + values.shape[0]]",
        "[: values.shape[0]]",
        SLOTS,
    ),
    Mutant(
        "later-pair-before-the-rescaling",
        "_stages",
        "stages.append(_Product((step.pair,)))",
        "stages.insert(0, _Product((step.pair,)))",
        SLOTS,
    ),
    Mutant(
        "zero-norm-let-through",
        "SlotValues._ratio",
        "bad = (norms == 0) | ~factors.isfinite()",
        "bad = norms < 0",
        SLOTS,
    ),
    Mutant(
        "token-rows-added",
        "_set_rows",
        "values[row] = new[at].to(values.dtype)",
        "values[row] += new[at].to(values.dtype)",
        SLOTS,
    ),
    Mutant(
        "lora-survives-a-replacement",
        "path_programs",
        "_drop(slot, steps, new)",
        "steps[slot] = [one for one in steps.get(slot, ()) if isinstance(one, Add)]",
        PROGRAMS,
    ),
    Mutant(
        "first-writer-wins",
        "path_programs",
        "_drop(slot, steps, new)",
        "pass",
        "test_twice_on_a_narrow_base[conv-new conv]",
    ),
    Mutant(
        "new-head-of-the-earlier-shape",
        "path:_drop",
        "if slot.tensor in new else [slot]:",
        "if False else [slot]:",
        "test_new_heads.py",
    ),
    Mutant(
        "added-bias-unscaled",
        "_steps_of",
        "Plain(pair.bias), scale, link.source",
        "Plain(pair.bias), 1.0, link.source",
        link("conv-lora bias"),
    ),
    Mutant(
        "rescaled-before-the-pair",
        "_steps_of",
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        "        if pair.magnitude is not None:\n"
        "            yield slot_of_target(pair.target), Rescale(number, pair.magnitude, link.source, tied=pair.tied)\n"
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        link("conv-dora"),
    ),
    Mutant(
        "experts-replaced-by-the-first",
        "_fused_replacements",
        "first = piece.expert * a_matrix + (",
        "first = 0 * a_matrix + (",
        PROGRAMS,
    ),
    Mutant(
        "one-side-changes-both",
        "_bound_pairs",
        "for side in _sides(pair.target, table, all_of_them=pair.tied):",
        "for side in _sides(pair.target, table, all_of_them=True):",
        PROGRAMS,
    ),
    Mutant(
        "any-tie-may-part",
        "_check_may_part",
        "if len(group) != 2 or not (table.output_module in group or told):",
        "if False:",
        PROGRAMS,
    ),
)

FACTORS: Final = (
    Mutant(
        "expert-major-as-rank-major",
        "ExpertA.read",
        "return read_rows(source, self.entry, first + start, first + stop)",
        "return read_whole(source, self.entry)[self.expert :: self.entry.shape[0] // self.rank][start:stop]",
        "test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-b",
        "ExpertB.read",
        "rows[:, self.expert :: self.experts]",
        "rows[:, self.expert * self.shape[1] : (self.expert + 1) * self.shape[1]]",
        "test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-turned-b",
        "TurnedExpertA.read",
        "whole[:, self.expert :: self.experts].T",
        "whole[:, self.expert * self.shape[0] : (self.expert + 1) * self.shape[0]].T",
        "test_factors_of_experts_by_value",
    ),
    Mutant(
        "kernel-flattened-the-wrong-way",
        "Plain.read",
        "return read_rows(source, self.entry, start, stop)",
        "return read_rows(source, self.entry, start, stop).view(stop - start, self.entry.shape[1], -1)"
        ".transpose(1, 2).flatten(1)",
        link("conv-plain"),
    ),
    Mutant(
        "blocks-swapped",
        "BlockDiagonal.read",
        "full[first:last, block * columns : (block + 1) * columns]",
        "full[first:last, (self.blocks - 1 - block) * columns : (self.blocks - block) * columns]",
        link("llama-blocks"),
    ),
    Mutant(
        "wrong-transposition",
        "Target.transposed",
        "in (TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "in ()",
        link("declared-linear"),
    ),
    Mutant(
        "conv1d-as-linear",
        "Target.transposed",
        "(TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "(TargetKind.EMBEDDING,)",
        CHECKPOINT,
    ),
    Mutant(
        "gate-and-up-swapped",
        "_concatenate",
        "_join(list(chain.from_iterable(inputs)),",
        "_join(list(chain.from_iterable(reversed(inputs))),",
        "test_targets_conversions.py",
    ),
    Mutant(
        "rows-of-the-first-part",
        "_slot",
        "Slot(runs[0].tensor, runs[0].first, rows, columns, transposed)",
        "Slot(runs[0].tensor, 0, rows, columns, transposed)",
        "test_targets_runs.py",
    ),
    Mutant(
        "rotary-order-the-other-way",
        "_permuted",
        '(2, half) if options["inverse"] else (half, 2)',
        '(half, 2) if options["inverse"] else (2, half)',
        "test_row_conversions.py",
    ),
    Mutant(
        "rows-scattered-as-gathered",
        "Place.scattered",
        "self.run.meant(row) - around",
        "self.run.stored(row) - around",
        "test_merged_runs.py",
    ),
)
