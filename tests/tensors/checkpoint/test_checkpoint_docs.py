"""docs/checkpoints.md lists what PEFT can write: a new release of PEFT fails a test here, and not a user."""

from __future__ import annotations

import dataclasses
import re

from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftType

from registry.images.adapter_file import FIELD
from registry.images.keys import TUNERS
from registry.tensors.checkpoint.variants.fields import WAYS
from registry.tensors.checkpoint.variants.products import PRODUCTS, SHARED
from registry.tensors.checkpoint.variants.table import RULES, TAILS
from tests.root import ROOT

PAGE = (ROOT / "docs" / "checkpoints.md").read_text()
BEFORE_PEFT_0_3 = {"enable_lora", "merge_weights"}


def _first_column(heading: str) -> list[str]:
    """Every word in backticks in the first column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_every_field_of_the_installed_peft_has_a_rule_and_a_line() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields - set(RULES) == set(), "a new field of LoraConfig: decide what it means, and add it to a variant"
    listed = _first_column("Fields of `adapter_config.json`")
    assert sorted(listed) == sorted(RULES)
    products = {field.name for kind in (LoHaConfig, LoKrConfig) for field in dataclasses.fields(kind)}
    assert products == set(PRODUCTS.fields) | SHARED, "a new field of LoHa or LoKr: decide what it means"
    assert set(RULES) - fields - set(PRODUCTS.fields) == BEFORE_PEFT_0_3 | {FIELD}


def test_every_end_of_a_tensor_name_has_a_line() -> None:
    listed = _first_column("Names of tensors")
    assert sorted(set(listed) - {"weight", "bias"}) == sorted(TAILS)


def test_every_other_tuner_of_the_installed_peft_has_a_way() -> None:
    assert {str(one.value) for one in PeftType} - {"LORA", *TUNERS} - set(WAYS) == set()
