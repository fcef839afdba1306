"""Paths on quantised bases: every value against the exact model in float64, and what is untouched bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from registry.services.local import LocalRegistry
from tests.kit.adapters import write_chain
from tests.kit.bases import llama_base
from tests.kit.floats import round_once
from tests.kit.kinds_of_bases import gpt_oss_base
from tests.kit.merged_tensor import used_bound
from tests.kit.quantised_models import FP8_CONFIG, MXFP4_CONFIG, NF4_CONFIG, Quantised, fp8, mxfp4, nf4, quantised
from tests.kit.recipes import write_recipes
from tests.kit.tensor_files import read_model
from tests.kit.variants import VARIANTS

KINDS = ["fp8", "nf4"]


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Quantised:
    plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=40, mlp=72, heads=4, kv_heads=2)
    if request.param == "fp8":
        return quantised(plain, tmp_path / "q", fp8((16, 16)), FP8_CONFIG, shards=2)
    return quantised(plain, tmp_path / "q", nf4, NF4_CONFIG)


@pytest.mark.parametrize("made", KINDS, indirect=True)
@pytest.mark.parametrize("dtype", [None, "fp32"])
def test_a_path_of_four(made: Quantised, dtype: Literal["fp32"] | None, local: LocalRegistry, tmp_path: Path) -> None:
    added = local.add_base("llama", made.folder)
    assert added.base.parameters == sum(np.prod(one.shape) for one in read_model(made.exact.folder).values())
    folders = write_chain(tmp_path / "chain", made.exact, 4, ["q_proj", "gate_proj"])
    path = "llama"
    for number, folder in enumerate(folders):
        path = f"{path}/a{number}"
        local.publish(folder, path)
    out = local.fetch(path, tmp_path / "out", kind="merged", dtype=dtype).folder
    found, merged = read_model(Path(out)), made.exact.reference(folders)
    spelt = "F32" if dtype else "BF16"
    changed = {name for name, one in merged.items() if one.touched}
    assert changed
    assert changed < made.decoded
    assert used_bound({name: merged[name] for name in changed}, found, spelt) <= 1
    for name in made.decoded - changed:
        assert np.array_equal(found[name].values, round_once(merged[name].values, spelt)), name
        assert found[name].dtype == spelt
    assert set(found) == set(merged)
    config = json.loads((Path(out) / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == {"F32": "float32", "BF16": "bfloat16"}[spelt]


RECIPES = {
    "llama": ("rslora", "dora", "patterns", "dora of others"),
    "gpt_oss": ("fused", "up only", "dora", "down only"),
}


@pytest.mark.parametrize("kind", ["fp8", "nf4", "mxfp4"])
def test_other_adapters(kind: str, local: LocalRegistry, tmp_path: Path) -> None:
    if kind == "mxfp4":
        oss = gpt_oss_base(tmp_path / "plain", dtype="BF16", mlp=32, hidden=32)
        made, family = quantised(oss, tmp_path / "q", mxfp4, MXFP4_CONFIG), "gpt_oss"
    else:
        llama = llama_base(tmp_path / "plain", dtype="BF16", hidden=40, mlp=72)
        how, config = (fp8((16, 16), "BF16"), FP8_CONFIG) if kind == "fp8" else (nf4, NF4_CONFIG)
        made, family = quantised(llama, tmp_path / "q", how, config), "llama"
    folders = write_recipes(tmp_path / "path", made.exact, [VARIANTS[family][name] for name in RECIPES[family]])
    path = local.add_base("base", made.folder).base.name
    for number, folder in enumerate(folders):
        path = f"{path}/a{number}"
        local.publish(folder, path)
    merged = made.exact.reference(folders)
    changed = {name for name, one in merged.items() if one.touched}
    assert changed & made.decoded
    found = read_model(Path(local.fetch(path, tmp_path / "out", kind="merged").folder))
    assert found.keys() == merged.keys()
    assert used_bound({name: merged[name] for name in changed}, found, "BF16") <= 1
    kept = read_model(Path(local.fetch(path, tmp_path / "kept", kind="merged", dtype="keep").folder))
    assert {name: found[name] for name in changed if name in kept} == {
        name: kept[name] for name in changed if name in kept
    }


@pytest.mark.parametrize("made", KINDS, indirect=True)
def test_the_base_alone_is_the_plain_decode(made: Quantised, local: LocalRegistry, tmp_path: Path) -> None:
    local.add_base("llama", made.folder)
    out = Path(local.fetch("llama", tmp_path / "out", kind="merged").folder)
    exact = read_model(made.exact.folder)
    for name, one in read_model(out).items():
        assert np.array_equal(one.values, round_once(exact[name].values, "BF16")), name
    stored = Path(local.fetch("llama", tmp_path / "stored", kind="published").folder)
    assert {name: one.data for name, one in read_model(stored).items()} == {
        name: one.data for name, one in read_model(made.folder).items()
    }
