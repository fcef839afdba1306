"""The shared cases: paths with the right answer, and adapters that must be refused.

They lie beside the checkout; without them these tests are skipped, and the small ones of `tests/tensors` remain.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import InvalidBaseError, RegistryError
from registry.services.local import LocalRegistry
from tests.kit import RawTensor, read_model, read_tensors, simulate, spacing
from tests.kit.tensor_files import tensor_files
from tests.root import ROOT

CASES = ROOT / "../shared/cases"

QUIRKS = ["quirk_alpha_pattern_overlap_d1", "quirk_tied_lm_head_mts_untie_d1"]
"""Cases where PEFT is wrong or unclear, and that are merged as the case says is right."""

LEFT_OUT = {"neg_pickle_alongside": "adapter_model.bin"}
"""Cases where a file may be left out instead, and is."""


def _all(kind: str) -> list[str]:
    found = [path.parent.name for path in sorted(CASES.glob("*/case.json")) if _case(path.parent.name)["kind"] == kind]
    return found or ["absent"]


def _case(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CASES / name / "case.json").read_text())
    return found


def _given(name: str) -> tuple[dict[str, Any], Path, list[Path]]:
    if name == "absent":
        pytest.skip(f"no cases at {CASES}")
    case = _case(name)
    root = CASES / name
    return case, root / case["base"], [root / adapter for adapter in case["path"]]


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    with_cases = LocalRegistry.open(tmp_path / "registry", create=True)
    yield with_cases
    with_cases.close()


def _publish(registry: LocalRegistry, adapters: list[Path]) -> str:
    path, reference = "base", ""
    for number, adapter in enumerate(adapters, 1):
        path += f"/link{number}"
        reference = registry.publish(adapter, path).revision.reference
    return reference


def _stored(registry: LocalRegistry) -> set[Path]:
    """Every file of the store: blobs, their block lists, whatever was left on the way."""
    return {
        path for path in Path(registry.url).rglob("*") if path.is_file() and not path.name.startswith("registry.db")
    }


def _paths(registry: LocalRegistry) -> list[str]:
    return sorted(one.path for one in registry.search().revisions)


@pytest.mark.parametrize("name", [*_all("positive"), *QUIRKS])
def test_positive(registry: LocalRegistry, name: str, tmp_path: Path) -> None:
    case, base, adapters = _given(name if (CASES / name).exists() else "absent")
    registry.add_base("base", base)
    reference = _publish(registry, adapters)
    tolerance = case["tolerance"]
    expected = {key: raw.values for key, raw in read_tensors(CASES / name / "expected/merged.safetensors").items()}
    registry.fetch(reference, tmp_path / "wide", kind="merged", dtype="fp32")
    wide = read_model(tmp_path / "wide")
    assert sorted(wide) == sorted(expected)
    for key, values in expected.items():
        assert np.allclose(wide[key].values, values, rtol=tolerance["rel"], atol=tolerance["abs"]), key

    registry.fetch(reference, tmp_path / "native", kind="merged")
    native, before = read_model(tmp_path / "native"), read_model(base)
    assert [path.name for path in tensor_files(tmp_path / "native")] == [path.name for path in tensor_files(base)]
    assert set(native) - set(before) == set(case["new_tensors"])
    for key, raw in native.items():
        if key not in case["changed_tensors"]:
            assert raw == before[key], key
        elif key in before:
            assert raw.dtype == before[key].dtype
    config = json.loads((tmp_path / "native" / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text()) | case["config_changes"]
    if "native" in tolerance:
        rounded = read_tensors(CASES / name / tolerance["native"]["file"])
        for key, raw in rounded.items():
            apart = np.abs(native[key].values - raw.values)
            assert (apart <= tolerance["native"]["max_ulp"] * spacing(raw.values, raw.dtype)).all(), key
            assert (apart != 0).mean() < 0.01, key


def test_overlapping_patterns_are_flagged(registry: LocalRegistry) -> None:
    name = "quirk_alpha_pattern_overlap_d1"
    _, base, adapters = _given(name if (CASES / name).exists() else "absent")
    registry.add_base("base", base)
    notices = registry.publish(adapters[0], "base/one").revision.notices
    assert any("alpha_pattern" in notice for notice in notices), notices


@pytest.mark.parametrize("name", [*_all("positive"), *QUIRKS])
def test_composed_ranks_and_values(registry: LocalRegistry, name: str, tmp_path: Path) -> None:
    case, base, adapters = _given(name if (CASES / name).exists() else "absent")
    registry.add_base("base", base)
    composed = tmp_path / "composed"
    registry.fetch(_publish(registry, adapters), composed)
    tensors = read_tensors(composed / "adapter_model.safetensors")
    factored = case["factored"]
    if factored["composable"]:
        config = json.loads((composed / "adapter_config.json").read_text())
        assert config["use_dora"] is (factored["form"] == "dora")
        assert _ranks(tensors, config) == _limited(factored["ranks"], tensors)
    simulated = simulate(base, [composed]).tensors
    expected = {key: raw.values for key, raw in read_tensors(CASES / name / "expected/merged.safetensors").items()}
    assert sorted(simulated) == sorted(expected)
    for key, values in expected.items():
        assert np.allclose(simulated[key].values, values, rtol=1e-5, atol=1e-5), key


def _ranks(tensors: dict[str, RawTensor], config: dict[str, Any]) -> dict[str, int]:
    """Rank of each module and parameter, as the configuration gives it and the tensors agree."""
    patterns = {re.sub(r"\\(.)", r"\1", key[1:]): rank for key, rank in config["rank_pattern"].items()}
    targets = config["target_modules"]
    modules = list(targets) if isinstance(targets, list) else re.sub(r"\\(.)", r"\1", targets[1:-1]).split("|")
    ranks = {name: patterns.get(name, config["r"]) for name in [*modules, *config.get("target_parameters", [])]}
    for module in modules:
        lead = f"base_model.model.{module}."
        (a,) = [raw for key, raw in tensors.items() if key in (f"{lead}lora_A.weight", f"{lead}lora_embedding_A")]
        assert a.shape[0] == ranks[module]
    return ranks


def _limited(ranks: dict[str, int], tensors: dict[str, RawTensor]) -> dict[str, int]:
    """The sums of ranks, where they pass the matrix its smaller side."""
    limits = {}
    for key, raw in tensors.items():
        for tail in (".lora_B.weight", ".lora_embedding_B"):
            a = tensors.get(key.replace("lora_B", "lora_A").replace("embedding_B", "embedding_A"))
            if key.endswith(tail) and a is not None:
                limits[key.removeprefix("base_model.model.").removesuffix(tail)] = min(
                    raw.shape[0], math.prod(a.shape[1:])
                )
    return {name: min(rank, limits.get(name, rank)) for name, rank in ranks.items()}


@pytest.mark.parametrize("name", _all("negative"))
def test_negative(registry: LocalRegistry, name: str, tmp_path: Path) -> None:
    case, base, adapters = _given(name)
    expect = case["expect"]
    if expect["offending"] == "base":
        with pytest.raises(InvalidBaseError) as refused_base:
            registry.add_base("base", base)
        assert refused_base.value.code == expect["code"], refused_base.value
        assert registry.bases() == ()
        assert _stored(registry) == set()
        return
    registry.add_base("base", base)
    *good, bad = adapters
    _publish(registry, good)
    before, paths = _stored(registry), _paths(registry)
    path = "/".join(["base", *(f"link{number}" for number in range(1, len(good) + 1)), "bad"])
    if name in LEFT_OUT:
        answer = registry.publish(bad, path)
        assert [one.path for one in answer.left_out] == [LEFT_OUT[name]]
        registry.fetch(path, tmp_path / "published", kind="published")
        assert not (tmp_path / "published" / LEFT_OUT[name]).exists()
        return
    with pytest.raises(RegistryError) as refused:
        registry.publish(bad, path)
    assert refused.value.code == expect["code"], refused.value
    assert _stored(registry) == before
    assert _paths(registry) == paths


def test_a_pickle_alone_has_the_weights_of_the_file_beside_it(registry: LocalRegistry, tmp_path: Path) -> None:
    _, base, adapters = _given("neg_pickle_alongside" if CASES.exists() else "absent")
    registry.add_base("base", base)
    shutil.copytree(adapters[0], tmp_path / "alone")
    (tmp_path / "alone" / "adapter_model.safetensors").unlink()
    alone = registry.publish(tmp_path / "alone", "base/alone").revision
    assert alone.digest == registry.publish(adapters[0], "base/both").revision.digest
