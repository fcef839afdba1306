"""Merged onto the grid of the codes (``--dtype fp8``): nearest codes, stored scales, and what arrives of a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import AccuracyError, UsageError
from registry.services.local import LocalRegistry
from tests.kit.adapters import write_adapter
from tests.kit.bases import llama_base
from tests.kit.floats import Array
from tests.kit.kinds_of_bases import gpt_oss_base
from tests.kit.quantised_models import (
    FP8_CONFIG,
    MXFP4_CONFIG,
    NF4_CONFIG,
    Quantised,
    e4m3,
    fp8,
    mxfp4,
    nearest,
    nf4,
    quantised,
    spread,
)
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.tensor_files import RawTensor, read_model, write_model

BLOCK = (16, 16)


@pytest.fixture
def made(tmp_path: Path) -> Quantised:
    plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=40, mlp=72)
    return quantised(plain, tmp_path / "q", fp8(BLOCK), FP8_CONFIG, shards=2)


def meant(stored: dict[str, RawTensor], name: str) -> Array:
    codes = np.frombuffer(stored[name].data, np.uint8).reshape(stored[name].shape)
    rows, columns = codes.shape
    return np.multiply(e4m3()[codes], spread(stored[f"{name}_scale_inv"].values, BLOCK, (rows, columns)))


def figures(before: list[Array], after: list[Array], wanted: list[Array]) -> tuple[float, float]:
    """Surviving share and error, by the definitions of docs/quantised.md."""
    delta = np.concatenate([(one - own).ravel() for one, own in zip(wanted, before, strict=True)])
    held = np.concatenate([(one - own).ravel() for one, own in zip(after, before, strict=True)])
    return float(held @ delta / (delta @ delta)), float(np.linalg.norm(held - delta) / np.linalg.norm(delta))


@pytest.mark.parametrize("size", [0.02, 3.0])
def test_codes_are_the_nearest_and_scales_stay(
    made: Quantised, local: LocalRegistry, tmp_path: Path, size: float
) -> None:
    local.add_base("llama", made.folder)
    adapter = write_adapter(tmp_path / "a", made.exact, ["q_proj", "down_proj"], r=2, size=size)
    local.publish(adapter, "llama/a")
    fetched = local.fetch("llama/a", tmp_path / "out", kind="merged", dtype="fp8")
    found, stored = read_model(Path(fetched.folder)), read_model(made.folder)
    merged = made.exact.reference([adapter])
    changed = sorted(name for name, one in merged.items() if one.touched)
    widened = 0
    for name in changed:
        scales, before = (one[f"{name}_scale_inv"].values for one in (found, stored))
        wanted = merged[name].values
        peaks = np.array(
            [
                [np.abs(wanted[i : i + 16, j : j + 16]).max() for j in range(0, wanted.shape[1], 16)]
                for i in range(0, wanted.shape[0], 16)
            ]
        )
        beyond = peaks > 464 * before
        widened += int(beyond.sum())
        assert np.array_equal(scales[~beyond], before[~beyond])
        assert np.array_equal(scales[beyond], (peaks[beyond] / 448).astype(np.float32))
        spread_scales = spread(scales, BLOCK, wanted.shape)
        best = e4m3()[nearest(np.clip(wanted / spread_scales, -448, 448), e4m3())] * spread_scales
        error = np.abs(meant(found, name) - wanted)
        assert (error <= np.abs(best - wanted) * (1 + 1e-9) + 1e-15).all(), name
    assert (widened > 0) == (size > 1)
    for name in found.keys() - {one for own in changed for one in (own, f"{own}_scale_inv")}:
        assert found[name] == stored[name]
    assert (Path(fetched.folder) / "config.json").read_bytes() == (made.folder / "config.json").read_bytes()
    survives, error_of = figures(
        [meant(stored, name) for name in changed],
        [meant(found, name) for name in changed],
        [merged[name].values for name in changed],
    )
    assert fetched.fidelity is not None
    assert fetched.fidelity.surviving_share == pytest.approx(survives, rel=1e-6)
    assert fetched.fidelity.relative_error == pytest.approx(error_of, rel=1e-6)
    assert {(one.tensor, one.dtype) for one in fetched.fidelity.tensors} == {(name, "fp8") for name in changed}
    verified = local.verify(fetched.folder)
    assert (verified.equal, verified.exact) == (True, True)
    with local.artifact("llama/a", kind="merged", dtype="fp8") as artifact:
        for path, file in artifact.files.items():
            assert file.read(7, min(file.size, 1999)) == (Path(fetched.folder) / path).read_bytes()[7:1999]


def test_too_little_of_it_is_refused(made: Quantised, local: LocalRegistry, tmp_path: Path) -> None:
    local.add_base("llama", made.folder)
    local.publish(write_adapter(tmp_path / "a", made.exact, ["q_proj"], r=2, size=0.0005), "llama/a")
    local.publish(write_adapter(tmp_path / "b", made.exact, ["q_proj"], r=2, size=0.02), "llama/b")
    for ref, least in (("llama/b", 0.999),):
        with pytest.raises(AccuracyError, match="--dtype keep") as refused:
            local.fetch(ref, tmp_path / "out", kind="merged", dtype="fp8", min_fidelity=least)
        assert refused.value.code == "not_representable"
        assert not (tmp_path / "out").exists()
    assert local.fetch("llama/b", tmp_path / "b-out", kind="merged", dtype="fp8", min_fidelity=0.1).fresh
    with pytest.raises(AccuracyError):  # though the same files are there
        local.fetch("llama/b", tmp_path / "b-out", kind="merged", dtype="fp8", min_fidelity=0.999)
    with pytest.raises(UsageError, match="needs --dtype fp8"):
        local.fetch("llama/b", tmp_path / "out", kind="merged", min_fidelity=0.1)


@pytest.mark.parametrize("kind", ["nf4", "mxfp4"])
def test_on_four_bits_nothing_arrives(kind: str, local: LocalRegistry, tmp_path: Path) -> None:
    if kind == "nf4":
        plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=64, mlp=128)
        made = quantised(plain, tmp_path / "q", nf4, NF4_CONFIG)
        adapter = write_adapter(tmp_path / "a", made.exact, ["q_proj", "up_proj"], r=2, size=0.01)
    else:
        oss = gpt_oss_base(tmp_path / "plain", dtype="BF16", mlp=32, hidden=32)
        made = quantised(oss, tmp_path / "q", mxfp4, MXFP4_CONFIG)
        recipe = Recipe((), ("mlp.experts.gate_up_proj",), alpha=0.001)
        adapter = write_recipe(tmp_path / "a", made.exact, recipe)
    local.add_base("base", made.folder)
    local.publish(adapter, "base/a")
    with pytest.raises(AccuracyError, match="survives") as refused:
        local.fetch("base/a", tmp_path / "out", kind="merged", dtype="fp8")
    assert refused.value.code == "not_representable"
    told = str(refused.value)
    assert float(told.partition(" codes ")[2].partition("%")[0]) < 10
    assert "--dtype keep" in told
    assert not (tmp_path / "out").exists()


def test_weights_that_are_replaced_are_not_left_out(local: LocalRegistry, tmp_path: Path) -> None:
    """No change of theirs can be measured, and they would not be in the files."""
    plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=64, mlp=128)
    made = quantised(plain, tmp_path / "q", nf4, NF4_CONFIG)
    local.add_base("base", made.folder)
    recipe = Recipe(("lm_head",), replaced=("q_proj",))
    local.publish(write_recipe(tmp_path / "a", made.exact, recipe), "base/a")
    with pytest.raises(AccuracyError, match=r"can.t be measured.* and only single matrices") as refused:
        local.fetch("base/a", tmp_path / "out", kind="merged", dtype="fp8")
    assert refused.value.code == "not_representable"
    assert not (tmp_path / "out").exists()


def test_a_scale_of_zero_is_refused(made: Quantised, local: LocalRegistry, tmp_path: Path) -> None:
    stored: dict[str, Any] = dict(read_model(made.folder))
    name = "model.layers.0.self_attn.q_proj.weight_scale_inv"
    values = stored[name].values.copy()
    values[0, 0] = 0
    stored[name] = RawTensor.of(values, "F32")
    zero = tmp_path / "zero"
    write_model(zero, stored)
    (zero / "config.json").write_text((made.folder / "config.json").read_text())
    local.add_base("zero", zero)
    local.publish(write_adapter(tmp_path / "a", made.exact, ["q_proj"], r=2), "zero/a")
    with pytest.raises(AccuracyError, match="zero or negative"):
        local.fetch("zero/a", tmp_path / "out", kind="merged", dtype="fp8")
    assert local.fetch("zero/a", tmp_path / "plain-out", kind="merged").fresh
