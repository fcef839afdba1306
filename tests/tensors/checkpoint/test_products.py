"""A LoHa or a LoKr that is not what its configuration says is refused, by a sentence that names the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.checkpoint.variants.products import PRODUCTS
from registry.tensors.table.architecture import make_table
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.targets import TargetTable
from tests.kit import Base, gpt2_base, llama_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

Q = "base_model.model.model.layers.0.self_attn.q_proj"
Change = Callable[[dict[str, Any], dict[str, RawTensor]], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return llama_base(tmp_path_factory.mktemp("base"))


def _table(base: Base) -> TargetTable:
    shapes = {one.tensor: ("F32", one.shape) for one in base.modules.values()}
    return table_from_names(shapes)


def _rename(old: str, new: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, RawTensor]) -> None:
        tensors[f"{Q}.{new}"] = tensors.pop(f"{Q}.{old}")

    return change


def _fields(**fields: Any) -> Change:
    return lambda config, _: config.update(fields)


def _as_lora(config: dict[str, Any], _: dict[str, RawTensor]) -> None:
    for name in PRODUCTS.fields:
        config.pop(name, None)
    config.update(peft_type="LORA", lora_alpha=4)


def _without(*parts: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, RawTensor]) -> None:
        for part in parts:
            del tensors[f"{Q}.{part}"]

    return change


def _beside(part: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, RawTensor]) -> None:
        tensors[f"{Q}.{part}"] = tensors[f"{Q}.hada_w1_b"]

    return change


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_fields(peft_type="LORA", lora_alpha=4), "unknown_config_field", "'alpha'"),
        (_as_lora, "unexpected_tensor", "peft_type is LORA"),
        (_fields(peft_type="LOKR"), "unexpected_tensor", "peft_type is LOKR"),
        (_fields(alpha=...), "unsupported_peft_type", "'alpha'"),
        (_fields(alpha="4"), "bad_config", "alpha"),
        (_fields(use_rslora=True), "unknown_config_field", "use_rslora"),
        (_fields(rank_pattern={"q_proj": 3}), "rank_mismatch", "gives 3 (rank_pattern 'q_proj')"),
        (_fields(r=1), "rank_mismatch", "gives 1 (r)"),
        (_fields(target_modules=["v_proj"]), "incomplete_adapter", "v_proj"),
        (_fields(exclude_modules=["model.layers.1.self_attn.q_proj"]), None, ""),
        (_without("hada_w2_b"), "incomplete_pair", "hada_w2_b"),
        (_without("hada_w1_a", "hada_w1_b", "hada_w2_a"), "incomplete_pair", "hada_w2_b"),
        (_rename("hada_w1_a", "hada_t1"), "incomplete_pair", "hada_w1_a"),
        (_rename("hada_w1_a", "lora_A.weight"), "incomplete_pair", "lora_B.weight"),
        (_rename("hada_w1_a", "hada_w1_a.default"), "incomplete_pair", "hada_w1_a"),
        (_beside("lora_magnitude_vector"), "unexpected_tensor", "peft_type is LOHA"),
        (_beside("lokr_w1"), "unexpected_tensor", "peft_type is LOHA"),
    ],
)
def test_what_is_no_loha(base: Base, tmp_path: Path, change: Change, code: str | None, said: str) -> None:
    folder = write_recipe(tmp_path / "own", base, Recipe(("q_proj",), product="loha"))
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = dict(read_tensors(folder / "adapter_model.safetensors"))
    change(config, tensors)
    problem = _problem({name: one for name, one in config.items() if one is not ...}, tensors, tmp_path, _table(base))
    if code is None:
        # what PEFT would ignore is told, and refused when it is published
        assert problem is None
        return
    assert problem is not None
    assert problem.code == code
    assert said in str(problem)


def _problem(
    config: Mapping[str, Any], tensors: dict[str, RawTensor], folder: Path, table: TargetTable
) -> InvalidAdapterError | None:
    write_tensors(folder / "changed.safetensors", tensors)
    try:
        with FileSource(folder / "changed.safetensors") as source:
            header = read_header(source, what="it", error=InvalidAdapterError)
        found = read_checkpoint(parse_config(json.dumps(config).encode()), header.entries, table)
    except InvalidAdapterError as problem:
        return problem
    assert found.untargeted == ("model.layers.1.self_attn.q_proj",)
    return None


def test_peft_has_none_for_other_kinds_of_modules(tmp_path: Path) -> None:
    """GPT-2's Conv1D, whose weights lie the other way round, and an embedding."""
    base = gpt2_base(tmp_path / "gpt2")
    shapes = {one.tensor: ("F32", one.shape) for one in base.modules.values()}
    table = make_table(json.loads((base.folder / "config.json").read_text()), shapes)
    for target in ("c_attn", "wpe"):
        folder = write_recipe(tmp_path / target, base, Recipe((target,), product="loha"))
        config = json.loads((folder / "adapter_config.json").read_text())
        problem = _problem(config, dict(read_tensors(folder / "adapter_model.safetensors")), tmp_path, table)
        assert problem is not None
        assert problem.code == "unsupported_layout"
        assert "PEFT has LoHa and LoKr for linear modules and convolutions alone" in str(problem)
