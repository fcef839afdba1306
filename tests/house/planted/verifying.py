"""What is said of a fetched folder: what lies beside the artifact, and every field of its receipt."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_FIELDS: Final = "test_a_changed_value_is_noticed_or_only_told[embedded-merged]"
_TRUNCATED: Final = "test_a_changed_value_is_noticed_or_only_told[embedded-error]"

VERIFYING: Final = (
    Mutant(
        "foreign-adapter-passes",
        "verified",
        "for name in there.loaded",
        "for name in there.loaded if not name",
        "test_an_adapter_beside_a_merged_model_fails_it[embedded]",
    ),
    Mutant(
        "foreign-adapter-is-there-already",
        "already_there",
        "if others.loaded:",
        "if others.loaded and others.others:",
        "test_an_adapter_beside_a_merged_model_fails_it[embedded]",
    ),
    Mutant(
        "base-with-an-adapter-on-top",
        "refuse_adapter_beside",
        "if ADAPTER_CONFIG in names and not names.isdisjoint(_ADAPTER_WEIGHTS):",
        "if not names:",
        "test_a_model_with_an_adapter_beside_it_is_no_base[embedded]",
    ),
    Mutant(
        "parts-are-not-looked-at",
        "beside:_found",
        'f"{name}/" in holding or ',
        "",
        "test_the_root_and_the_folders_of_parts_are_looked_at",
    ),
    Mutant(
        "listed-in-the-receipt-is-its-own",
        "verified",
        "there = beside(folder, own)",
        "there = beside(folder, own | {file.path for file in receipt.files})",
        "test_a_receipt_that_lists_them_makes_them_no_part_of_it[embedded]",
    ),
    Mutant(
        "checkpoints-fail-it",
        "beside:_found",
        'yield f"{_spelt(name)}/", False',
        'yield f"{_spelt(name)}/", True',
        "test_what_a_trainer_left_is_named[embedded-merged]",
    ),
    Mutant(
        "receipt-is-not-compared",
        "wrong_fields",
        "reasons += _differences(",
        "_ = _differences(",
        _FIELDS,
    ),
    Mutant(
        "figures-are-not-compared",
        "receipt_check:_close",
        "if not isinstance(their, float | int) or not isinstance(my, float | int):",
        "if True:\n        return isinstance(their, float | int)\n    if not isinstance(my, float | int):",
        _TRUNCATED,
    ),
    Mutant(
        "fidelity-of-other-rows",
        "SlotMeter.total",
        'one[-1 if rows_of == "sample" else 0]',
        "one[0]",
        _FIELDS,
    ),
    Mutant(
        "rendering-is-believed",
        "Ours.wrong_rendering",
        "if receipt.rendering == rendering_digest(receipt.plan_digest, *made_of, name):",
        "if receipt.rendering:",
        "test_a_rendering_that_was_changed_is_no_closeness[embedded-merged]",
    ),
    Mutant(
        "numerics-are-believed",
        "Ours.wrong_rendering",
        "return None if same else",
        "return None if same or made_of else",
        "test_a_rendering_that_was_changed_is_no_closeness[embedded-merged]",
    ),
    Mutant(
        "service-renders-under-no-name",
        "remote:_names",
        "yield hub_name(",
        "return\n        yield hub_name(",
        "test_the_name_in_readme_is_that_of_the_hub",
    ),
    Mutant(
        "numbers-of-anybody",
        "_link_numbered_as",
        "or number != theirs.number",
        "",
        "test_a_changed_value_is_noticed_or_only_told",
    ),
)
