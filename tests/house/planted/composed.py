"""Composed adapters and truncation."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import MODEL_CONFIG, TRUNCATE, Mutant, link

FORMS: Final = "test_peft_loads_every_form_of_a_composed_adapter"
COMPOSED: Final = (
    Mutant(
        "scaled-where-it-is-kept",
        "ComposedPair.b_rows",
        "rows = read * (pair.scale * self.factor)",
        "rows = read.mul_(pair.scale * self.factor)",
        "test_float64_factors.py",
    ),
    Mutant(
        "rank-order-composed",
        "ComposedPair.a_rows",
        "for pair in self.pairs:\n            first, last",
        "for pair in reversed(self.pairs):\n            first, last",
        "test_a_is_what_was_published_root_first",
    ),
    Mutant(
        "inverse-of-c-missing",
        "ComposedPair.b_rows",
        "(rows if scale is None else rows / scale[start:stop].unsqueeze(1))",
        "rows",
        "test_dora_anywhere[conv-everywhere]",
    ),
    Mutant(
        "sign-of-c-lost",
        "ComposedPair._normal_form",
        "magnitude * c.sign()",
        "magnitude",
        "test_a_negative_magnitude[dora]",
    ),
    Mutant(
        "composed-magnitude-of-ones",
        "ComposedPair._normal_form",
        "if isinstance(last, Rescale) else norms",
        "if isinstance(last, Rescale) else torch.ones_like(norms)",
        "test_dora_anywhere[conv-root]",
    ),
    Mutant(
        "pattern-unanchored",
        "composed_config",
        '"^" + re.escape(name)',
        "re.escape(name)",
        "test_a_pattern_is_of_one_module",
    ),
    Mutant(
        "scale-not-one",
        "composed_config",
        '"lora_alpha": rank,',
        '"lora_alpha": 2 * rank,',
        link("conv-plain"),
    ),
    Mutant(
        "module-saved-in-part",
        "Composition._value_tensors",
        "(is_inside(name, self._forms.saved_modules) or",
        "(False or",
        f"{FORMS}[levit-containers]",
    ),
    Mutant(
        "head-of-the-task-in-parts",
        "Forms.saved_modules",
        "_outermost(name, self.whole) or _wrappable(name)",
        "_wrappable(name)",
        "test_a_head_that_peft_saves_for_the_task",
    ),
    Mutant(
        "biases-in-part",
        "Forms.needs_bias",
        'return self.bias == "all" or parameter',
        'return self.bias == "none" and parameter',
        "test_biases_of_some_modules",
    ),
    Mutant(
        "zeros-inside-saved",
        "Composition._spare_target",
        "not is_under(module, taken):",
        "module not in taken:",
        "test_a_block_that_is_saved_whole_has_no_pair",
    ),
    Mutant(
        "outer-wrapper-unnamed",
        "WrappedNames.path",
        '".base_layer" * self._wrappers[module[:at]]',
        '""',
        f"{FORMS}[vit-parameters]",
    ),
    Mutant(
        "bias-taken-for-the-weight",
        "_another",
        "parameter is not None and parameter !=",
        "parameter is None and parameter !=",
        f"{FORMS}[convbert-values]",
    ),
    Mutant(
        "composed-experts-slowest",
        "expert_tensors.rows_of_b",
        "permute(2, 1, 0)",
        "permute(2, 0, 1)",
        link("declared-experts"),
    ),
    Mutant(
        "experts-filled-with-ones",
        "_filled",
        "(0, 0, 0, count - rows.shape[0]))",
        "(0, 0, 0, count - rows.shape[0]), value=1.0)",
        "test_experts_that_only_some_links_adapt",
    ),
    Mutant(
        "output-projection-not-halved",
        "Composition._pair",
        "factor = 0.5 if attention_of",
        "factor = 1.0 if attention_of",
        link("attention-plain"),
    ),
    Mutant(
        "rounding-of-the-factors-ignored",
        "Composition.truncate",
        "or written is None or written <= max_error:",
        "or written is None or written > 0:",
        "test_rounding_alone_can_be_too_much",
    ),
    Mutant(
        "untied-config-forgotten",
        "untied_config",
        "changed = {**config, _TIE: False}",
        "changed = dict(config)",
        MODEL_CONFIG,
    ),
    Mutant(
        "new-tensor-not-in-the-index",
        "index_of",
        "for name in header.entries}",
        'for name in header.entries if name in index["weight_map"]}',
        MODEL_CONFIG,
    ),
)

TRUNCATION: Final = (
    Mutant(
        "smallest-kept",
        "Decomposition.keep",
        "self.to_b[:, :rank].clone(), self.to_a[:rank].clone()",
        "self.to_b[:, -rank:].clone(), self.to_a[-rank:].clone()",
        TRUNCATE,
    ),
    Mutant(
        "row-weights-forgotten",
        "_row_blocks",
        "if row_weights is not None:",
        "if False:",
        TRUNCATE,
    ),
    Mutant("distance-of-a-sum", "distance", "-other_a.to(torch", "other_a.to(torch", TRUNCATE),
    Mutant(
        "c-missing-in-the-svd",
        "_decompose.blocks",
        "return rows if c is None else rows * c[start : start + step].unsqueeze(1)",
        "return rows",
        "test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "magnitude-of-the-base",
        "TruncatedPair._with_pair",
        "steps = (*pair.program.steps[: -len(pair.program.since(pair.since))], Add(pair.since, new))",
        "steps = pair.program.steps[: -len(pair.program.since(pair.since))]",
        "test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "energy-not-squared",
        "ModuleSpectrum.energies",
        "values[k] ** 2 for values",
        "values[k] for values",
        "test_truncate_ranks.py",
    ),
    Mutant(
        "spectral-error-of-the-last-kept",
        "truncation:_module",
        "_ratio(module.singular_value(kept),",
        "_ratio(module.singular_value(kept - 1),",
        "test_truncate_report.py",
    ),
)
