"""Bugs of quantised weights: what an adapter was trained on, and what is merged onto it."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_MADE: Final = "test_all_linear_modules_are_those_of_training[embedded]"

QUANTISED: Final = (
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
)
