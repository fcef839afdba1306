"""The list of planted bugs: one sign, one transposition, one missing scale, one skipped check each.

`tests.house.mutants` plants them. The tests named are the narrowest that notice, mostly on bases that need no target
table of a transformers model, which takes seconds to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """A bug: in ``file``, the one place that reads ``old`` reads ``new``; ``tests`` are to notice."""

    name: str
    file: str  # below registry/
    old: str
    new: str
    tests: str  # what pytest is given: a file, or one test of it


_SLOTS: Final = "tests/tensors/path/test_slot_values.py"
_PROGRAMS: Final = "tests/tensors/path/test_programs.py"
_CHECKPOINT: Final = "tests/tensors/checkpoint/test_checkpoint.py"
_CONFIG: Final = "tests/tensors/checkpoint/test_lora_config.py"
_PATTERNS: Final = "tests/tensors/checkpoint/test_patterns.py"
_KEYS: Final = "tests/tensors/checkpoint/test_key_grammar.py"
_COVERAGE: Final = "tests/tensors/checkpoint/test_coverage.py"
_TWINS: Final = "tests/tensors/checkpoint/test_twins.py"
_PARTS: Final = "tests/tensors/checkpoint/test_variants_parts.py"
_MODULES: Final = "tests/tensors/checkpoint/test_variants_modules.py"
_TRUNCATE: Final = "tests/tensors/truncation/test_truncate.py"
_COMPOSE: Final = "tests/tensors/composed/test_compose_values.py"
_MODEL_CONFIG: Final = "tests/tensors/artifacts/test_model_config.py"
_VARIANTS: Final = "tests/services/test_variants.py"
_COPIES: Final = "tests/services/test_lineage_copies.py"


def _link(variant: str) -> str:
    return f"{_VARIANTS}::test_one_link[{variant}]"


_ARITHMETIC: Final = (
    Mutant("scale-dropped", "tensors/path/steps.py", ".mul_(self.scale)", "", _SLOTS),
    Mutant(
        "rank-order",
        "tensors/path/slot_values.py",
        "for pair in pairs], dim=1)",
        "for pair in reversed(pairs)], dim=1)",
        _SLOTS,
    ),
    Mutant(
        "base-rounded-first",
        "tensors/path/slot_values.py",
        "values[:rows].copy_(stored)",
        "values[:rows].copy_(stored.bfloat16())",
        _SLOTS,
    ),
    Mutant(
        "first-block-again",
        "tensors/path/slot_values.py",
        "first = index * self.rows_a_block\n        if isinstance(stage, _Product)",
        "first = 0\n        if isinstance(stage, _Product)",
        _SLOTS,
    ),
    Mutant(
        "round-a-slice",
        "tensors/arithmetic/blocks.py",
        "            sums.addmm_(",
        "            sums.copy_(sums.bfloat16()).addmm_(",
        _SLOTS,
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

_PATH: Final = (
    Mutant("norm-without-root", "tensors/path/slot_values.py", "return squares.sqrt()", "return squares", _SLOTS),
    Mutant(
        "norm-of-the-last-block",
        "tensors/path/slot_values.py",
        "squares += column_squares(self._before(number, index))",
        "squares = column_squares(self._before(number, index))",
        _SLOTS,
    ),
    Mutant(
        "norm-of-the-base-alone",
        "tensors/path/slot_values.py",
        "for earlier in range(number):",
        "for earlier in range(0):",
        _SLOTS,
    ),
    Mutant(
        "magnitude-not-divided",
        "tensors/path/slot_values.py",
        "factors = magnitude / norms",
        "factors = magnitude * norms.sign()",
        _SLOTS,
    ),
    Mutant(
        "magnitudes-of-the-first-rows",
        "tensors/path/slot_values.py",
        "[first : first + values.shape[0]]",
        "[: values.shape[0]]",
        _SLOTS,
    ),
    Mutant(
        "later-pair-before-the-rescaling",
        "tensors/path/slot_values.py",
        "stages.append(_Product((step.pair,)))",
        "stages.insert(0, _Product((step.pair,)))",
        _SLOTS,
    ),
    Mutant(
        "zero-norm-let-through",
        "tensors/path/slot_values.py",
        "bad = (norms == 0) | ~factors.isfinite()",
        "bad = norms < 0",
        _SLOTS,
    ),
    Mutant(
        "token-rows-added",
        "tensors/path/slot_values.py",
        "values[row] = new[at].to(values.dtype)",
        "values[row] += new[at].to(values.dtype)",
        _SLOTS,
    ),
    Mutant(
        "lora-survives-a-replacement",
        "tensors/path/programs.py",
        "                _drop(slot, steps, new)\n",
        "                steps[slot] = [one for one in steps.get(slot, ()) if isinstance(one, Add)]\n",
        _PROGRAMS,
    ),
    Mutant(
        "first-writer-wins",
        "tensors/path/programs.py",
        "                _drop(slot, steps, new)\n",
        "                pass\n",
        f"{_VARIANTS}::test_twice_on_a_narrow_base[conv-new conv]",
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
        _link("conv-lora bias"),
    ),
    Mutant(
        "rescaled-before-the-pair",
        "tensors/path/programs.py",
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        "        if pair.magnitude is not None:\n"
        "            yield slot_of_target(pair.target), Rescale(number, pair.magnitude, link.source, tied=pair.tied)\n"
        "        for slot, bound in _bound_pairs(pair, scale, link.source, table):\n",
        _link("conv-dora"),
    ),
    Mutant(
        "experts-replaced-by-the-first",
        "tensors/path/programs.py",
        "first = piece.expert * a_matrix + (",
        "first = 0 * a_matrix + (",
        _PROGRAMS,
    ),
    Mutant(
        "one-side-changes-both",
        "tensors/path/programs.py",
        "for side in _sides(pair.target, table, all_of_them=pair.tied):",
        "for side in _sides(pair.target, table, all_of_them=True):",
        _PROGRAMS,
    ),
    Mutant(
        "any-tie-may-part",
        "tensors/path/programs.py",
        "if len(group) != 2 or table.output_module not in group:",
        "if False:",
        _PROGRAMS,
    ),
)

_FACTORS: Final = (
    Mutant(
        "expert-major-as-rank-major",
        "tensors/factors/matrices.py",
        "return read_rows(source, self.entry, first + start, first + stop)",
        "return read_whole(source, self.entry)[self.expert :: self.entry.shape[0] // self.rank][start:stop]",
        f"{_MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-b",
        "tensors/factors/matrices.py",
        "rows[:, self.expert :: self.experts]",
        "rows[:, self.expert * self.shape[1] : (self.expert + 1) * self.shape[1]]",
        f"{_MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "expert-slowest-in-turned-b",
        "tensors/factors/turned_experts.py",
        "whole[:, self.expert :: self.experts].T",
        "whole[:, self.expert * self.shape[0] : (self.expert + 1) * self.shape[0]].T",
        f"{_MODULES}::test_factors_of_experts_by_value",
    ),
    Mutant(
        "kernel-flattened-the-wrong-way",
        "tensors/factors/matrices.py",
        "return read_rows(source, self.entry, start, stop)",
        "return read_rows(source, self.entry, start, stop).view(stop - start, self.entry.shape[1], -1)"
        ".transpose(1, 2).flatten(1)",
        _link("conv-plain"),
    ),
    Mutant(
        "blocks-swapped",
        "tensors/factors/matrices.py",
        "full[first:last, block * columns : (block + 1) * columns]",
        "full[first:last, (self.blocks - 1 - block) * columns : (self.blocks - block) * columns]",
        _link("llama-blocks"),
    ),
    Mutant(
        "wrong-transposition",
        "tensors/table/targets.py",
        "in (TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "in ()",
        _link("declared-linear"),
    ),
    Mutant(
        "conv1d-as-linear",
        "tensors/table/targets.py",
        "(TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "(TargetKind.EMBEDDING,)",
        _CHECKPOINT,
    ),
    Mutant(
        "gate-and-up-swapped",
        "tensors/table/conversions.py",
        "_join(list(chain.from_iterable(inputs)),",
        "_join(list(chain.from_iterable(reversed(inputs))),",
        "tests/tensors/table/test_targets_conversions.py",
    ),
)

_CHECKS: Final = (
    Mutant(
        "magnitude-missing",
        "tensors/checkpoint/variants/dora.py",
        "if (magnitude is not None) is not draft.config.use_dora:",
        "if magnitude is not None and not draft.config.use_dora:",
        _PARTS,
    ),
    Mutant("bias-missing", "tensors/checkpoint/variants/bias.py", "    if missing:\n", "    if False:\n", _PARTS),
    Mutant(
        "token-below-zero",
        "tensors/checkpoint/variants/token_rows.py",
        "if not 0 <= token < vocabulary",
        "if token >= vocabulary",
        _PARTS,
    ),
    Mutant(
        "rows-of-the-head-not-compared",
        "tensors/checkpoint/variants/token_rows.py",
        "draft.twins.append(Twin(rows.entry, draft.tokens.pop(other).entry))",
        "draft.tokens.pop(other)",
        _PARTS,
    ),
    Mutant(
        "saved-module-incomplete",
        "tensors/checkpoint/variants/saved_modules.py",
        "    if missing:\n",
        "    if False:\n",
        _PARTS,
    ),
    Mutant(
        "saved-module-of-another-shape",
        "tensors/checkpoint/variants/saved_modules.py",
        "        check_shape(entry, place.shape, place.parameter)\n",
        "",
        _PARTS,
    ),
    Mutant(
        "outermost-parameter-first",
        "tensors/checkpoint/variants/experts.py",
        "key=len, reverse=True",
        "key=len",
        _MODULES,
    ),
    Mutant(
        "square-experts-trusted",
        "tensors/checkpoint/variants/experts.py",
        "if config.version is not None and config.version >= FIRST_RIGHT:",
        "if True:",
        _MODULES,
    ),
    Mutant(
        "out-proj-single",
        "tensors/checkpoint/variants/attention.py",
        "return 2.0 if version <= LAST_DOUBLED else 1.0",
        "return 1.0",
        _MODULES,
    ),
    Mutant(
        "groups-accepted",
        "tensors/checkpoint/variants/convolution.py",
        "if groups is not None and groups > 1:",
        "if False:",
        _MODULES,
    ),
    Mutant(
        "dilation-accepted",
        "tensors/checkpoint/variants/convolution.py",
        "any(step > 1 for step",
        "any(step < 1 for step",
        _MODULES,
    ),
    Mutant(
        "blocks-of-the-other-factor",
        "tensors/checkpoint/variants/block_diagonal.py",
        "return (settings.blocks, 1) if in_a",
        "return (settings.blocks, 1) if in_b",
        _MODULES,
    ),
    Mutant(
        "ties-of-two-scales",
        "tensors/checkpoint/variants/ties.py",
        "if one.scaling != two.scaling or not",
        "if not",
        _MODULES,
    ),
    Mutant(
        "pissa-accepted",
        "tensors/checkpoint/variants/initialisations.py",
        'ADDITIVE: Final = ("gaussian",',
        'ADDITIVE: Final = ("pissa", "gaussian",',
        _CONFIG,
    ),
    Mutant(
        "kasa-accepted",
        "tensors/checkpoint/variants/initialisations.py",
        '"kasa_config": nothing(',
        '"kasa_config": (lambda *_: any_value)(',
        _CONFIG,
    ),
    Mutant(
        "unknown-field-accepted",
        "tensors/checkpoint/lora_config.py",
        "if name not in RULES and says_something(value):",
        "if False:",
        _CONFIG,
    ),
    Mutant(
        "rslora-as-plain",
        "tensors/checkpoint/adapter_config.py",
        "alpha / math.sqrt(rank) if",
        "alpha / rank if",
        _CONFIG,
    ),
    Mutant(
        "rank-of-the-config-unchecked",
        "tensors/checkpoint/variants/draft.py",
        "if rank != expected:",
        "if False:",
        _CHECKPOINT,
    ),
    Mutant(
        "factor-of-another-width",
        "tensors/checkpoint/fit.py",
        "if len(entry.shape) != 2 or entry.shape[axis] * blocks != size:",
        "if len(entry.shape) != 2:",
        _CHECKPOINT,
    ),
    Mutant(
        "last-pattern-wins",
        "tensors/checkpoint/patterns.py",
        "return self._patterns[keys[0]], keys",
        "return self._patterns[keys[-1]], keys",
        _PATTERNS,
    ),
    Mutant(
        "anchor-ignored",
        "tensors/checkpoint/patterns.py",
        "in (False, True) if end is name else (False,):",
        "in (False, True):",
        _PATTERNS,
    ),
    Mutant(
        "repeat-of-a-repeat",
        "tensors/checkpoint/pattern_syntax.py",
        "            if self._last_endless:\n",
        "            if False:\n",
        f"{_PATTERNS}::test_bombs_and_dialects_are_refused_by_name",
    ),
    Mutant(
        "raw-state-dict-as-a-module",
        "tensors/checkpoint/key_grammar.py",
        " or any(segment in _RESERVED for segment in segments):",
        ":",
        _KEYS,
    ),
    Mutant(
        "down-and-up-confused",
        "tensors/checkpoint/foreign_names.py",
        '{"down": "lora_A", "up": "lora_B"}',
        '{"down": "lora_B", "up": "lora_A"}',
        _KEYS,
    ),
    Mutant(
        "hole-in-the-layers",
        "tensors/checkpoint/coverage.py",
        "holes = [module for module in missing if surely(module)]",
        "holes: list[str] = []",
        _COVERAGE,
    ),
    Mutant(
        "transposed-twin-by-itself",
        "tensors/checkpoint/twins.py",
        "whole = read_rows(source, twin.first, 0, twin.first.shape[0]).T if twin.transposed else None",
        "whole = read_rows(source, twin.second, 0, twin.second.shape[0]) if twin.transposed else None",
        _TWINS,
    ),
    Mutant(
        "twins-not-compared",
        "services/lineage_check.py",
        "        check_twins(checkpoint, source)\n",
        "",
        f"{_COPIES}::test_a_double_with_other_numbers_is_refused",
    ),
    Mutant(
        "lineage-not-compared",
        "services/lineage_check.py",
        "if not excess <= 0:",
        "if False:",
        f"{_COPIES}::test_one_wrong_element_is_enough",
    ),
    Mutant(
        "declared-key-not-known",
        "tensors/table/declaration.py",
        '_check_keys(shown(name), entry, {"kind", *keys})',
        "pass",
        "tests/tensors/table/test_targets_declared.py",
    ),
    Mutant(
        "weights-of-another-model",
        "tensors/table/structure.py",
        "if tuple(shape) != held:",
        "if False:",
        "tests/tensors/table/test_architecture_rules.py",
    ),
    Mutant(
        "product-behind-a-zero",
        "tensors/files/header.py",
        "math.prod(size or 1 for size in shape)",
        "math.prod(shape)",
        "tests/fuzz/test_headers.py::test_what_a_product_or_a_sign_can_hide",
    ),
    Mutant(
        "minus-zero",
        "tensors/files/strict_json.py",
        'if digits == "-0":',
        "if False:",
        "tests/tensors/files/test_strict_json.py",
    ),
    Mutant(
        "last-key-wins",
        "tensors/files/strict_json.py",
        "if len(document) != len(pairs):",
        "if False:",
        "tests/tensors/files/test_strict_json.py",
    ),
)

_COMPOSED: Final = (
    Mutant(
        "rank-order-composed",
        "tensors/composed/pair.py",
        "for pair in self.pairs:\n            first, last",
        "for pair in reversed(self.pairs):\n            first, last",
        f"{_COMPOSE}::test_a_is_what_was_published_root_first",
    ),
    Mutant(
        "inverse-of-c-missing",
        "tensors/composed/pair.py",
        "(rows if scale is None else rows / scale[start:stop].unsqueeze(1))",
        "rows",
        f"{_VARIANTS}::test_dora_anywhere[conv-everywhere]",
    ),
    Mutant(
        "sign-of-c-lost",
        "tensors/composed/pair.py",
        "magnitude * c.sign()",
        "magnitude",
        f"{_VARIANTS}::test_a_negative_magnitude[dora]",
    ),
    Mutant(
        "composed-magnitude-of-ones",
        "tensors/composed/pair.py",
        "if isinstance(last, Rescale) else norms\n",
        "if isinstance(last, Rescale) else torch.ones_like(norms)\n",
        f"{_VARIANTS}::test_dora_anywhere[conv-root]",
    ),
    Mutant(
        "pattern-unanchored",
        "tensors/composed/config.py",
        '"^" + re.escape(name)',
        "re.escape(name)",
        f"{_COMPOSE}::test_a_pattern_is_of_one_module",
    ),
    Mutant(
        "scale-not-one",
        "tensors/composed/config.py",
        '"lora_alpha": rank,',
        '"lora_alpha": 2 * rank,',
        _link("conv-plain"),
    ),
    Mutant(
        "composed-experts-slowest",
        "tensors/composed/experts.py",
        "permute(2, 1, 0)",
        "permute(2, 0, 1)",
        _link("declared-experts"),
    ),
    Mutant(
        "experts-filled-with-ones",
        "tensors/composed/experts.py",
        "(0, 0, 0, count - rows.shape[0]))",
        "(0, 0, 0, count - rows.shape[0]), value=1.0)",
        "tests/services/test_truncation.py::test_experts_that_only_some_links_adapt",
    ),
    Mutant(
        "output-projection-not-halved",
        "tensors/composed/composition.py",
        "factor = 0.5 if attention_of",
        "factor = 1.0 if attention_of",
        _link("attention-plain"),
    ),
    Mutant(
        "rounding-of-the-factors-ignored",
        "tensors/composed/composition.py",
        "or written is None or written <= max_error:",
        "or written is None or written > 0:",
        "tests/services/test_truncation_dtype.py::test_rounding_alone_can_be_too_much",
    ),
    Mutant(
        "untied-config-forgotten",
        "tensors/artifacts/model_config.py",
        "changed = {**config, _TIE: False}",
        "changed = dict(config)",
        _MODEL_CONFIG,
    ),
    Mutant(
        "new-tensor-not-in-the-index",
        "tensors/artifacts/model_config.py",
        "for name in header.entries}",
        'for name in header.entries if name in index["weight_map"]}',
        _MODEL_CONFIG,
    ),
)

_TRUNCATION: Final = (
    Mutant(
        "smallest-kept",
        "tensors/truncation/truncate.py",
        "self.to_b[:, :rank].clone(), self.to_a[:rank].clone()",
        "self.to_b[:, -rank:].clone(), self.to_a[-rank:].clone()",
        _TRUNCATE,
    ),
    Mutant(
        "row-weights-forgotten",
        "tensors/truncation/truncate.py",
        "        if row_weights is not None:\n",
        "        if False:\n",
        _TRUNCATE,
    ),
    Mutant("distance-of-a-sum", "tensors/truncation/truncate.py", "-other_a.to(torch", "other_a.to(torch", _TRUNCATE),
    Mutant(
        "c-missing-in-the-svd",
        "tensors/composed/truncated.py",
        "return rows if c is None else rows * c[start : start + step].unsqueeze(1)",
        "return rows",
        "tests/services/test_truncation.py::test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "magnitude-of-the-base",
        "tensors/composed/truncated.py",
        "steps = (*pair.program.steps[: -len(pair.program.since(pair.since))], Add(pair.since, new))",
        "steps = pair.program.steps[: -len(pair.program.since(pair.since))]",
        "tests/services/test_truncation.py::test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "energy-not-squared",
        "tensors/truncation/rank_choice.py",
        "values[k] ** 2 for values",
        "values[k] for values",
        "tests/tensors/truncation/test_truncate_ranks.py",
    ),
    Mutant(
        "spectral-error-of-the-last-kept",
        "tensors/truncation/report.py",
        "_ratio(module.singular_value(kept),",
        "_ratio(module.singular_value(kept - 1),",
        "tests/tensors/truncation/test_truncate_report.py",
    ),
)

_REGISTRY: Final = (
    Mutant(
        "block-not-checked",
        "storage/reading.py",
        "if not self._right(index, block_digest(block)):",
        "if False:",
        "tests/storage/test_damage.py",
    ),
    Mutant(
        "block-list-not-checked",
        "storage/reading.py",
        "opened.size != len(data) or sha256_digest(data) != blocks_digest",
        "opened.size != len(data)",
        "tests/storage/test_damage.py",
    ),
    Mutant(
        "number-given-again",
        "catalogue/publishing.py",
        "number=adapter.next_number,",
        "number=1 + len(session.scalars(select(Revision.id).where(Revision.adapter_id == adapter.id)).all()),",
        "tests/catalogue/test_publishing.py",
    ),
    Mutant(
        "grandparent-not-looked-at",
        "catalogue/browse.py",
        "(outdated[parent] or is_behind(parent))",
        "outdated[parent]",
        "tests/catalogue/test_browse.py",
    ),
    Mutant(
        "wrong-parent",
        "services/parents.py",
        "row.digest == receipt.tip), None)",
        "True), None)",
        "tests/services/test_registry.py",
    ),
    Mutant(
        "parent-guessed",
        "services/parents.py",
        "if len(candidates) > 1:",
        "if len(candidates) > 99:",
        "tests/services/test_registry.py",
    ),
)

MUTANTS: Final = (*_ARITHMETIC, *_PATH, *_FACTORS, *_CHECKS, *_COMPOSED, *_TRUNCATION, *_REGISTRY)
