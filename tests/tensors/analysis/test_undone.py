"""The share of its parent's delta that a link takes back: against dense matrices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import BytesSource
from registry.tensors.analysis.inner_products import undone_share
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.kit.floats import Array
from tests.kit.tensor_files import RawTensor, write_tensors

SHAPE = (20, 12)
TABLE = TargetTable({name: Target(name, TargetKind.LINEAR, f"{name}.weight", SHAPE) for name in "abc"}, "test")
Pairs = dict[str, tuple[Array, Array]]
"""B and A by module; the scale is 2."""


def link(file: Path, pairs: Pairs) -> BoundLink:
    rank = next(iter(pairs.values()))[0].shape[1]
    tensors = {}
    for name, (b, a) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = RawTensor.of(a, "F64")
        tensors[f"base_model.model.{name}.lora_B.weight"] = RawTensor.of(b, "F64")
    write_tensors(file, tensors)
    config = json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(pairs)})
    source = BytesSource(file.read_bytes(), "adapter")
    header = read_header(source, what="adapter", error=InvalidAdapterError)
    return BoundLink(read_checkpoint(parse_config(config.encode()), header.entries, TABLE), source)


def drawn(rng: np.random.Generator, names: str, rank: int) -> Pairs:
    return {name: (rng.normal(size=(SHAPE[0], rank)), rng.normal(size=(rank, SHAPE[1]))) for name in names}


def dense(pairs: Pairs) -> dict[str, Array]:
    return {name: 2 * b @ a for name, (b, a) in pairs.items()}


@pytest.mark.parametrize(("above", "below"), [("ab", "ab"), ("ab", "bc"), ("abc", "a"), ("a", "bc")])
def test_against_dense_matrices(tmp_path: Path, above: str, below: str) -> None:
    rng = np.random.default_rng(len(above) + 7 * len(below))
    root, parent, child = drawn(rng, "abc", 3), drawn(rng, above, 2), drawn(rng, below, 4)
    links = [link(tmp_path / str(n), pairs) for n, pairs in enumerate((root, parent, child))]
    d_parent, d_child = dense(parent), dense(child)
    both = sum(float(np.sum(d_parent[name] * d_child[name])) for name in above if name in below)
    expected = -both / sum(float(np.sum(value**2)) for value in d_parent.values())
    assert undone_share(links, TABLE) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert undone_share(links[1:], TABLE) == pytest.approx(expected, rel=1e-12, abs=1e-14)  # not the root's


@pytest.mark.parametrize("share", [-1.0, 0.25, 1.0, 3.0])
def test_a_share_of_the_parent_itself(tmp_path: Path, share: float) -> None:
    parent = drawn(np.random.default_rng(0), "ab", 2)
    child = {name: (-share * b, a) for name, (b, a) in parent.items()}
    links = [link(tmp_path / "parent", parent), link(tmp_path / "child", child)]
    assert undone_share(links, TABLE) == pytest.approx(share, rel=1e-12)


def test_of_a_parent_that_adds_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    usual = drawn(rng, "a", 2)
    zero = {"a": (0 * usual["a"][0], usual["a"][1])}
    b, a = usual["a"]
    cancelled = {"a": (np.hstack([b, -b]), np.vstack([a, a]))}
    for pairs in (zero, cancelled):
        assert undone_share([link(tmp_path / "p", pairs), link(tmp_path / "c", usual)], TABLE) is None
