"""Sums, slots and programs, and deltas beside each other."""

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
        "widened_into(values[:rows], stored)",
        "widened_into(values[:rows], stored.bfloat16())",
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
        "buffer-of-two",
        "used_again",
        "_free[bits].pop()",
        "_free[bits][-1]",
        "files:test_buffers.py",
    ),
    Mutant(
        "lanes-of-two-threads",
        "_single_threaded",
        "torch.set_num_threads(1)",
        "torch.set_num_threads(2)",
        "test_lanes.py",
    ),
    Mutant(
        "there-by-another-version",
        "_there_already",
        "since, __version__, ARTIFACT_FORMAT)",
        "since, receipt.versions.registry, ARTIFACT_FORMAT)",
        "test_a_folder_of_another_version_is_built_again",
    ),
    Mutant(
        "stand-in-is-called",
        "_StandIn.needed",
        "if _StandIn.building:",
        "if not _StandIn.building:",
        "test_nothing_is_worked_out_by_one",
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
        "PlacedRun.scattered",
        "self.run.meant(row) - around",
        "self.run.stored(row) - around",
        "test_merged_runs.py",
    ),
)
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
