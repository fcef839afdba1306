"""Bugs of quantised weights: what is read of a checkpoint, what an adapter was trained on, what is merged onto it."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_MADE: Final = "test_all_linear_modules_are_those_of_training[embedded]"

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
        "layouts-of-kernels",
        "bitsandbytes:_rows",
        'quantised.small(form) != b"\\0"',
        "False",
        "test_layouts_of_kernels",
    ),
    Mutant(
        "rotated-weights",
        "compressed_tensors:_check_config",
        "if any(transform.values()) if isinstance(transform, Mapping) else transform:",
        "if False:",
        "test_what_changes_the_meaning_of_weights_is_refused_whatever_the_tensors",
    ),
    Mutant(
        "the-first-group-that-fits",
        "compressed_tensors:_decoding",
        "len(found) == 1",
        "found",
        "test_two_groups_that_fit_and_too_many",
    ),
    Mutant(
        "columns-of-half-a-group",
        "compressed_tensors:_block",
        "if shape[1] % size:",
        "if False:",
        "test_groups_that_do_not_say_how_to_read",
    ),
    Mutant(
        "scales-without-their-mean",
        "nf4:nested",
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
    Mutant("head-in-four-bits", "quantised_modules", "and module != table.output_module", "", _MADE),
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
        "artifacts:trained_on",
        "if said[one] != said[first]",
        "if said[one] is None",
        "test_a_path_goes_onto_what_its_links_say",
    ),
    Mutant(
        "training-forgotten-by-copies",
        "copy:_Revisions._request",
        'trained_quantised=json.loads(link.manifest).get("trained_quantised"),',
        "",
        "test_how_it_was_trained_is_in_the_manifest_and_goes_along[embedded]",
    ),
    Mutant(
        "rounded-before-the-path",
        "matrices:read_rows",
        "if decoded is not None:",
        "if False:",
        "test_a_path_of_four[fp32-fp8]",
    ),
    Mutant(
        "fused-apart",
        "mixed:_group",
        "return (*parts[:-2], *together) if together else tuple(parts)",
        "return tuple(parts)",
        "test_one_projection[fp8-modules_to_not_convert]",
    ),
    Mutant(
        "blocks-beyond-their-codes",
        "CodeGrid.widen",
        "if not bool(beyond.any()):",
        "if True:",
        "test_codes_are_the_nearest_and_scales_stay[3.0]",
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
        "requantised:check_arrives",
        "if found.unwritten is not None:",
        "if found.unwritten is not None and survives is not None:",
        "test_weights_that_are_replaced_are_not_left_out",
    ),
    Mutant(
        "a-loader-rounds-nothing",
        "sample:_block_of",
        "own if program.origin is None else base.exact_dtype(program.origin)",
        "own",
        "test_what_was_trained_on_its_folder_is_on_it[nf4-embedded]",
    ),
    Mutant(
        "nan-in-a-scale-is-taken",
        "passed:_block",
        "if not bool(finite.all()):",
        "if False:",
        "test_a_scale_that_is_no_number_is_refused[nf4]",
    ),
    Mutant(
        "states-not-compared",
        "add_remote:_check_small",
        "if sha256_digest(value) != index.tensors[name].digest:",
        "if False:",
        "test_states_that_are_not_those_of_the_files_are_refused[nf4]",
    ),
    Mutant(
        "older-versions-take-codes",
        "TargetTable.to_document",
        "FORMAT if self.quantised is None else QUANTISED_FORMAT",
        "FORMAT",
        "test_a_version_before_refuses_its_table[fp8]",
    ),
)

DECODED: Final = (
    Mutant(
        "middles-not-looked-at",
        "_extremes",
        "if not len(at):",
        "if True:",
        "test_products_that_float32_puts_between_two_numbers",
    ),
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
        "any-matrix-kept",
        "DecodedTensor._whole",
        "self._kept is None or self._kept[0] != matrix",
        "self._kept is None",
        "test_values_are_the_exact_products[mxfp4 experts]",
    ),
    Mutant(
        "companions-of-codes-unseen",
        "fp8:_grids",
        "next((other for other in parts if other not in _BESIDE), None)",
        "None",
        "test_fp8:test_what_is_not_understood_is_refused",
    ),
)
