"""The reference says what the shared cases say, of every case with an answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.kit import read_tensors, simulate
from tests.root import ROOT

CASES = ROOT / "../shared/cases"


def _names() -> list[str]:
    found = [path.parents[1].name for path in sorted(CASES.glob("*/expected/merged.safetensors"))]
    return found or ["absent"]


def _case(name: str) -> dict[str, Any]:
    if name == "absent":
        pytest.skip(f"no cases at {CASES}")
    found: dict[str, Any] = json.loads((CASES / name / "case.json").read_text())
    return found


@pytest.mark.parametrize("name", _names())
def test_reference(name: str) -> None:
    case, root = _case(name), CASES / name
    found = simulate(root / case["base"], [root / adapter for adapter in case["path"]])
    expected = {key: raw.values for key, raw in read_tensors(root / "expected/merged.safetensors").items()}
    assert sorted(found.tensors) == sorted(expected)
    for key, values in expected.items():
        assert np.abs(found.tensors[key].values - values).max() < 1e-5, key
    assert found.untied == (case["config_changes"].get("tie_word_embeddings") is False)
    touched = {key for key, one in found.tensors.items() if one.touched}
    assert touched == set(case["changed_tensors"])


@pytest.mark.parametrize("name", _names())
def test_reference_at_each_depth(name: str) -> None:
    case, root = _case(name), CASES / name
    for depth in range(1, len(case["path"]) + 1):
        path = root / f"expected/depth_{depth}.safetensors"
        if not path.exists():
            continue
        found = simulate(root / case["base"], [root / adapter for adapter in case["path"][:depth]]).tensors
        for key, raw in read_tensors(path).items():
            assert np.abs(found[key].values - raw.values).max() < 1e-5, (depth, key)
