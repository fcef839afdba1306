"""Sketches of deltas: of the delta alone, however it is factored, and alike where deltas are."""

from __future__ import annotations

import hashlib
import itertools
import json
import math

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import BytesSource
from registry.tensors.analysis.inner_products import likeness, sketch
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.kit.floats import Array
from tests.kit.tensor_files import RawTensor, write_tensors

OUT, IN = 40, 24
Pairs = dict[str, tuple[Array, Array]]
"""B and A by module."""


@pytest.fixture
def sketched(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    numbers = itertools.count()

    def made(pairs: Pairs, dtype: str = "F64") -> bytes:
        file = tmp_path_factory.mktemp("adapter") / str(next(numbers))
        rank = next(iter(pairs.values()))[0].shape[1]
        tensors = {}
        for name, (b, a) in pairs.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = RawTensor.of(a, dtype)
            tensors[f"base_model.model.{name}.lora_B.weight"] = RawTensor.of(b, dtype)
        write_tensors(file, tensors)
        table = TargetTable(
            {f"m{n}": Target(f"m{n}", TargetKind.LINEAR, f"m{n}.weight", (OUT, IN)) for n in range(8)}, "test"
        )
        config = json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(pairs)})
        source = BytesSource(file.read_bytes(), "adapter")
        header = read_header(source, what="adapter", error=InvalidAdapterError)
        link = BoundLink(read_checkpoint(parse_config(config.encode()), header.entries, table), source)
        return sketch([link], table)

    return made


def drawn(rng: np.random.Generator, modules: int = 4, rank: int = 2) -> Pairs:
    return {f"m{n}": (rng.normal(size=(OUT, rank)), rng.normal(size=(rank, IN))) for n in range(modules)}


def hashes(name: str, count: int) -> Array:
    bits = np.frombuffer(hashlib.shake_256(name.encode()).digest(count), np.uint8)
    found = np.zeros((16, count))
    for at, bit in enumerate(bits):
        found[bit % 16, at] = -1.0 if bit & 16 else 1.0
    return found


def test_it_is_that_of_the_dense_delta(sketched) -> None:  # type: ignore[no-untyped-def]
    """As written down in `registry.tensors.analysis.inner_products`: other versions compare with these."""
    pairs = drawn(np.random.default_rng(0))
    total = sum(
        hashes(f"{name}\0-1\0out", OUT) @ b @ a @ hashes(f"{name}\0-1\0in", IN).T for name, (b, a) in pairs.items()
    )
    found = np.frombuffer(sketched(pairs), "<f4").reshape(16, 16)
    assert found == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_factors_and_size_do_not_matter(sketched) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    pairs = drawn(rng)
    mix = rng.normal(size=(2, 2))
    other = {name: (7 * b @ mix, np.linalg.inv(mix) @ a) for name, (b, a) in pairs.items()}
    assert likeness(sketched(pairs), [sketched(other)]) == pytest.approx([1.0], abs=1e-6)
    negated = {name: (-b, a) for name, (b, a) in pairs.items()}
    assert likeness(sketched(pairs), [sketched(negated), sketched(pairs)]) == pytest.approx([-1.0, 1.0], abs=1e-6)


def test_zero_is_like_nothing(sketched) -> None:  # type: ignore[no-untyped-def]
    pairs = drawn(np.random.default_rng(2))
    zero = {name: (0 * b, a) for name, (b, a) in pairs.items()}
    assert likeness(sketched(zero), [sketched(zero), sketched(pairs)]) == [0.0, 0.0]
    huge = {name: (1e200 * b, a) for name, (b, a) in pairs.items()}  # told by nothing, and refused by nothing
    assert set(sketched(huge)) == {0}
    assert likeness(sketched(pairs), []) == []


def test_alike_and_unlike(sketched) -> None:  # type: ignore[no-untyped-def]
    """A cosine of 0.99 looks like one above 0.8, and unrelated deltas do not."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        pairs, noise = drawn(rng, modules=2), drawn(rng, modules=2)
        together = {
            name: (np.hstack([b, share * noise[name][0]]), np.vstack([a, noise[name][1]]))
            for name, (b, a) in pairs.items()
            for share in [math.sqrt(1 / 0.99**2 - 1)]
        }
        alike, unlike = likeness(sketched(pairs), [sketched(together), sketched(noise)])
        assert alike > 0.8
        assert abs(unlike) < 0.6
