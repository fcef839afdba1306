"""Base models: quantised ones, norms, full fine-tunes, searches by dense changes, and rules of engines."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_TABLE: Final = "quantised:test_table.py"

QUANTISED: Final = (
    Mutant("blocks-that-contradict", "quantised:_said", "!= (first.method, first.block)", "is None", _TABLE),
    Mutant(
        "a-quantised-tensor-left-over", "read_quantised", "name not in used", "False", "test_tensors_that_do_not_fit"
    ),
    Mutant("another-map-of-codes", "_check_map", "!= MAPS[kind]", "is None", "test_another_map"),
    Mutant(
        "conv1d-as-it-is-stored",
        "_is_conv1d",
        "return bool(kinds.intersection(_CONV1D))",
        "return False",
        "test_which_weights_plain_files_hold_turned",
    ),
    Mutant(
        "the-first-group-that-fits",
        "_decoding",
        "len(found) == 1",
        "found",
        "test_two_groups_that_fit_and_too_many",
    ),
    Mutant(
        "scales-without-their-mean",
        "trained:nested",
        "scaled(magnitudes - offset, NESTED_BLOCK)",
        "scaled(magnitudes, NESTED_BLOCK)",
        "test_magnitudes_in_eight_bits_are_near",
    ),
    Mutant(
        "blocks-from-where-a-range-begins",
        "FourBitWeight.values",
        "first - first % block",
        "first",
        "test_any_range_has_the_values_of_the_whole",
    ),
    Mutant(
        "bytes-of-another-place",
        "TrainedTensor.read_into",
        "data[start - first * item : end - first * item]",
        "data[: end - start]",
        "test_bytes_from_anywhere_are_those_of_the_whole",
    ),
    Mutant(
        "distance-of-energies",
        "_with_quantisation",
        "math.sqrt(whole)",
        "whole",
        "test_the_figure_is_the_distance_of_the_two_merges[embedded]",
    ),
    Mutant(
        "two-trainings-in-one-path",
        "lineage:trained_on",
        "if said[one] != said[first]",
        "if said[one] is None",
        "test_a_path_goes_onto_what_its_links_say",
    ),
    Mutant(
        "training-forgotten-by-copies",
        "_Revisions._request",
        'trained_quantised=json.loads(link.manifest).get("trained_quantised"),',
        "",
        "test_how_it_was_trained_is_in_the_manifest_and_goes_along[embedded]",
    ),
    Mutant(
        "live-rows-for-exact-ones",
        "LiveWeights._keep",
        "if tensor.dtype == self.base.exact_dtype(origin):",
        "if tensor.dtype == self.base.dtype(origin):",
        "test_switches_are_bit_exact[nf4]",
    ),
    Mutant(
        "replaced-weights-left-out",
        "check_arrives",
        "if found.unwritten is not None:",
        "if found.unwritten is not None and survives is not None:",
        "test_weights_that_are_replaced_are_not_left_out",
    ),
)

DECODED: Final = (
    Mutant(
        "scales-that-round-alike-unasked",
        "GridScales.round_alike",
        "not bool((middle & (near != exact)).any())",
        "True",
        "test_products_that_float32_puts_between_two_numbers",
    ),
    Mutant(
        "high-nibble-first",
        "numbers_of",
        "for half in (byte & 15, byte >> 4)",
        "for half in (byte >> 4, byte & 15)",
        "test_the_plain_tensor_is_the_transpose_and_gate_and_up_stay_interleaved",
    ),
    Mutant(
        "blocks-by-the-grid",
        "fp8:_blocks",
        "yield (-(-rows // down), -(-columns // across)), rules.block",
        "yield (-(-rows // down), -(-columns // across)), (-(-rows // -(-rows // down)), across)",
        "test_192_rows_are_128_and_64",
    ),
    Mutant(
        "second-scale-divides",
        "modelopt:_grid",
        'Factor("multiply", second)',
        'Factor("divide", second)',
        "test_nvfp4_multiplies_by_its_second_scale",
    ),
    Mutant(
        "companions-of-codes-unseen",
        "_grids",
        "next((other for other in parts if other not in _BESIDE), None)",
        "None",
        "test_fp8:test_what_is_not_understood_is_refused",
    ),
)
NORMS: Final = (
    Mutant(
        "energy-of-a-split-row",
        "_add_energies",
        "tensor.rows[row] += _energies_of(values[:at].reshape(1, -1))[0]",
        "tensor.rows[row] = _energies_of(values[:at].reshape(1, -1))[0]",
        "test_energies.py",
    ),
    Mutant(
        "bfloat16-in-the-wrong-place",
        "_bfloat16",
        "np.left_shift(half, 16, out=half)",
        "np.left_shift(half, 15, out=half)",
        "test_energies.py",
    ),
    Mutant(
        "energies-by-chunk",
        "EnergyWatch._take",
        "filled = (index + at) % _ELEMENTS",
        "filled = at % _ELEMENTS",
        "test_energies.py",
    ),
    Mutant(
        "norms-of-the-old-table",
        "norms_of",
        ".where(BaseNormsRecord.table_digest == table_digest)",
        ".where(BaseNormsRecord.table_digest != '')",
        "test_a_table_that_was_rebuilt_has_none_until_they_are_taken",
    ),
    Mutant(
        "norms-of-other-weights",
        "norms_of",
        ", BaseModelRecord.digest == digest)",
        ")",
        "test_other_weights_under_the_name_have_their_own",
    ),
    Mutant(
        "norms-kept-for-another-table",
        "new_base:keep",
        "BaseModelRecord.table_digest == norms.table_digest,",
        "",
        "test_a_table_that_is_rebuilt_meanwhile",
    ),
    Mutant(
        "norms-outlive-their-base",
        "purge_base",
        "(BaseFile, BaseRepoId, ProtectedTagRecord, BaseNormsRecord)",
        "(BaseFile, BaseRepoId, ProtectedTagRecord)",
        "test_they_go_with_the_base_and_come_back_with_it",
    ),
)
_CHANGES: Final = "test_what_a_path_changes_and_what_its_last_link_does"

DENSE: Final = (
    Mutant(
        "statistics-or",
        "_Sought._conditions",
        "*map(search_conditions.number, self.compared)",
        "*map(search_conditions.number, self.compared[:1])",
        "test_searches_by_statistics_that_were_computed[embedded]",
    ),
    Mutant(
        "ties-of-older-revisions",
        "Query._walked",
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
        "transposed-block",
        "ChangedWeights._blocks_of",
        "yield Block(slice(*out), rows, old.T, new.T)",
        "yield Block(rows, slice(*out), old, new)",
        f"{_CHANGES}[gpt2-dora positions]",
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
        "operations:test_threads.py",
    ),
)
FULL: Final = (
    Mutant(
        "one-pass-is-enough",
        "directions",
        "if before - error <= ENOUGH * error:",
        "if before:",
        "test_best_pair.py",
    ),
    Mutant(
        "begins-narrower-than-the-rank",
        "best_pair:_Search.__init__",
        "width = min(_LANES * math.ceil((rank + OVERSAMPLED) / _LANES), size)",
        "width = _LANES",
        "test_more_equal_singular_values_than_a_pass_takes_are_all_found",
    ),
    Mutant(
        "ranks-one-above",
        "_Spectrum.lowest",
        "for rank in range(1, len(self.left_out))",
        "for rank in range(2, len(self.left_out))",
        "test_best_pair.py",
    ),
    Mutant(
        "rounded-parent-is-a-change",
        "Delta._differs",
        "if made is not None and torch.equal(made, found):",
        "if made is None:",
        "test_the_parent_itself_is_refused_as_this_registry_and_others_merge_it",
    ),
    Mutant(
        "experts-of-one-expert",
        "LinkMaker.add_experts",
        "filled_b[:, : b.shape[1], expert] = b",
        "filled_b[:, : b.shape[1], 0] = b",
        "test_at_full_rank_every_kind_of_layer_is_the_full_model[mixtral]",
    ),
)
DENOISERS: Final = (
    Mutant(
        "a-setting-that-nobody-knows",
        "Settings.finish",
        "if self._left:",
        "if len(self._left) > 99:",
        "test_what_is_not_known_is_not_said",
    ),
    Mutant(
        "the-halves-of-a-single-file-as-they-are-stored",
        "single_file:_held",
        "Run(tensor, half, half), Run(tensor, 0, half)",
        "Run(tensor, 0, half), Run(tensor, half, half)",
        "test_every_parameter_is_the_rows_that_it_was_made_of[flux]",
    ),
    Mutant(
        "a-tensor-of-nothing-known-is-copied",
        "single_file:_parameters",
        "if strange:",
        "if len(strange) > 1:",
        "test_a_part_that_nobody_knows_is_refused[another_model.weight]",
    ),
)
ENGINES: Final = (
    Mutant(
        "a-rank-that-is-just-too-large",
        "_reasons",
        "parts.rank > limit",
        "parts.rank > limit + 1",
        "test_a_rank_above_the_limit_is_truncated_where_an_error_is_allowed",
    ),
    Mutant(
        "the-rank-of-the-configuration-alone",
        "parts_of",
        'max([int(config["r"]), *map(int, config["rank_pattern"].values())])',
        'min([int(config["r"]), *map(int, config["rank_pattern"].values())])',
        "test_resolver.py",
    ),
    Mutant(
        "stacked-with-one-of-them",
        "_lacks",
        "return any(",
        "return all(",
        "test_check_says_what_the_loader_does",
    ),
    Mutant(
        "a-head-of-two-modules-is-one",
        "_of_config",
        "for held in holders)} | holders,",
        "for held in ())},",
        "test_vllm_takes_heads_that_are_one_module",
    ),
)
