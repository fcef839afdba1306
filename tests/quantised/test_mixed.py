"""Mixed models: which weights become dense together, and where it is said which modules a loader does not convert."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.files.header import write_header
from registry.quantised.listing import PlainListing, dense_with, mixed_files, plain_listing, skipping
from registry.quantised.reading import Codes, Grid, Reading, Scale

SHAPE = (4, 8)


def listing(*names: str, stored: tuple[tuple[str, str, tuple[int, ...]], ...] = ()) -> tuple[PlainListing, Any]:
    """Weights in FP8 with a scale each, and other stored tensors, as one file."""
    decoded = {name: Grid(SHAPE, Codes(name, "float8"), Scale(f"{name}_scale_inv", "float", SHAPE)) for name in names}
    tensors = [one for name in names for one in ((name, "F8_E4M3", SHAPE), (f"{name}_scale_inv", "F32", (1, 1)))]
    _, header = write_header([*tensors, *stored], {})
    headers = {"model.safetensors": header}
    dropped = frozenset(name for name, _, _ in stored if name.endswith("input_scale"))
    return plain_listing(Reading("fp8", decoded, dropped), headers, {"dtype": "float16"}), headers


@pytest.mark.parametrize(
    ("changed", "dense"),
    [
        ("l.0.attn.q_proj.weight", {"l.0.attn.q_proj.weight", "l.0.attn.v_proj.weight"}),
        ("l.0.attn.o_proj.weight", {"l.0.attn.o_proj.weight"}),
        ("l.0.experts.1.up_proj.weight", {f"l.0.experts.{n}.{w}_proj.weight" for n in (0, 1) for w in ("up", "down")}),
        ("embed.weight", set()),
    ],
)
def test_what_engines_load_as_one_is_dense_together(changed: str, dense: set[str]) -> None:
    names = [f"l.{n}.attn.{w}_proj.weight" for n in (0, 1) for w in ("q", "v", "o")]
    names += [f"l.{n}.experts.{e}.{w}_proj.weight" for n in (0, 1) for e in (0, 1) for w in ("up", "down")]
    assert dense_with([changed], listing(*names)[0]) == dense


def test_companions_of_dense_weights_are_gone() -> None:
    stored = (("a.input_scale", "F32", ()), ("b.input_scale", "F32", ()), ("norm.weight", "BF16", (8,)))
    found, headers = listing("a.weight", "b.weight", stored=stored)
    (file,) = mixed_files(found, headers, {"a.weight"}).values()
    assert {name: one.dtype for name, one in file.header.entries.items()} == {
        "a.weight": "F16",
        "b.weight": "F8_E4M3",
        "b.weight_scale_inv": "F32",
        "b.input_scale": "F32",
        "norm.weight": "BF16",
    }


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"quant_method": "fp8"}, {"modules_to_not_convert": ["head", "a"]}),
        ({"quant_method": "fp8", "ignored_layers": ["x"]}, {"ignored_layers": ["x", "a"]}),
        ({"quant_method": "bitsandbytes", "llm_int8_skip_modules": None}, {"llm_int8_skip_modules": ["head", "a"]}),
        ({"quant_method": "compressed-tensors", "ignore": ["head", "a"]}, {"ignore": ["head", "a"]}),
        ({"quant_method": "modelopt"}, {"ignore": ["head", "a"]}),
    ],
)
def test_modules_are_listed_where_the_loader_looks(config: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = skipping({"x": 1, "text_config": {"quantization_config": config}}, ["a"], ["head"])
    assert made == {"x": 1, "text_config": {"quantization_config": {**config, **wanted}}}


def test_modelopt_has_a_file_of_its_own() -> None:
    made = skipping({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}, ["a"], ["head"])
    assert made["quantization"] == {"quant_algo": "FP8", "exclude_modules": ["head", "a"]}
    assert made["producer"] == {"name": "modelopt"}


def test_two_tensors_of_one_plain_name_are_refused() -> None:
    decoded = {
        "e.down_proj": Grid(SHAPE, Codes("e.down_proj_blocks", "e2m1"), Scale("e.down_proj_scales", "float", SHAPE))
    }
    stored = [
        ("e.down_proj_blocks", "U8", (4, 4)),
        ("e.down_proj_scales", "F32", (1, 1)),
        ("e.down_proj", "BF16", SHAPE),
    ]
    _, header = write_header(stored, {})
    with pytest.raises(InvalidBaseError, match=r"'e\.down_proj' is in the files") as refused:
        plain_listing(Reading("mxfp4", decoded), {"model.safetensors": header}, None)
    assert refused.value.code == "bad_index"
