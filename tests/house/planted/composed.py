"""What is made of paths: composed, truncated, combined, rebased, exact; and what rounding leaves of a change."""

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
        "a-of-another-file",
        "comfyui:_places",
        "(id(one.source), entry.start",
        "(entry.start",
        "test_factors_at_one_place_of_two_files_are_not_the_same",
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
        "factor = 0.5 if self._table.attention_of",
        "factor = 1.0 if self._table.attention_of",
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
        "        for name in header.entries\n",
        '        for name in header.entries if name in index["weight_map"]\n',
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
    Mutant("distance-of-a-sum", "distance", "-other_a.to(torch", "other_a.to(torch", TRUNCATE),
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
        "truncated:_module",
        "_ratio(module.singular_value(kept),",
        "_ratio(module.singular_value(kept - 1),",
        "test_truncate_report.py",
    ),
)
COMBINED: Final = (
    Mutant(
        "weight-left-out",
        "WeighedPath.weighed",
        "link.coefficient * self.weight",
        "link.coefficient",
        "test_random_siblings_of_all_dtypes",
    ),
    Mutant(
        "combined-in-float32",
        "combined:combined",
        "sums=torch.float64",
        "sums=torch.float32",
        "test_past_the_rank_of_the_matrix",
    ),
    Mutant(
        "retraction-stops-at-sources",
        "ancestry:read",
        "own = of_sources(session, combined) | _retractions(session, withdrawn)",
        "own = _retractions(session, withdrawn)",
        "test_a_retracted_source_takes_it_down",
    ),
    Mutant(
        "source-told-by-its-old-name",
        "_called_now",
        "why if now not in there else",
        "why if True else",
        "test_a_retracted_source_is_told_by_the_name_that_it_has_now",
    ),
    Mutant(
        "served-without-its-source",
        "served",
        "*(row.id for row in rows if row.combined)",
        "",
        "test_the_views_serve_it_until_a_source_is_retracted",
    ),
    Mutant(
        "resolved-without-its-source",
        "with_sources",
        "if key in taken",
        "if False",
        "test_a_retracted_source_takes_it_down",
    ),
    Mutant(
        "renamed-sources-stay-old",
        "copy_details",
        "session.execute(update(_SOURCES).where(made_of).values(source_id=new_source))",
        "del made_of, new_source",
        "test_it_goes_on_under_another_name",
    ),
    Mutant(
        "hidden-source-shown",
        "sources_shown",
        "seen = row.path is not None",
        "seen = True",
        "test_what_a_token_may_not_see_can_not_be_combined",
    ),
    Mutant(
        "replay-believes",
        "_replayed",
        "close = apart <= _CLOSE",
        "close = True",
        "test_verify_makes_it_again",
    ),
)
REBASED: Final = (
    Mutant(
        "old-parent-counted-in",
        "_report",
        "replace(one, coefficient=-1.0)",
        "replace(one, coefficient=1.0)",
        "test_the_new_revision_has_the_same_files_and_the_weights_of_its_path",
    ),
)
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
        "meter:sums",
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
EXACT: Final = (
    Mutant(
        "difference-put-back-by-xor",
        "decode_frame",
        "difference + _as_long(against, folded.size, element)",
        "difference ^ _as_long(against, folded.size, element)",
        "test_all_bytes_come_back",
    ),
    Mutant(
        "coded-against-the-next-tensor",
        "against",
        "min(first + count, size)",
        "first + count",
        "test_any_range_is_the_models",
    ),
    Mutant(
        "first-exact-link-counts",
        "LoadedPath.exact",
        "in reversed(self.links)",
        "in self.links",
        "test_the_last_exact_revision_of_a_path_counts",
    ),
    Mutant(
        "grown-vocabulary-unsaid",
        "take_model_files",
        "if path in _OF_MODEL",
        "if False",
        "test_a_grown_vocabulary_comes_with_its_size",
    ),
)
