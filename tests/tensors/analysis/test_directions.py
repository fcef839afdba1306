"""Which pairs add nothing, or all in one direction, told while their bytes pass: against dense singular values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import BytesSource, FileSource
from registry.tensors.analysis.directions import Directions, DirectionWatch
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.kit.floats import Array
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors
from tests.kit.variants import MAKERS

NAMES = [f"m{number}" for number in range(6)]
KINDS = ("usual", "zero B", "zero A", "one", "nearly one", "hardly more", "cancelled", "small", "large", "mixed")


def factors(kind: str, rank: int, out: int, inn: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """B and A, the first singular value of the product so much larger than the others as the kind says."""
    left, right = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (out, inn))
    values = np.ones(rank)
    if kind in ("one", "nearly one", "hardly more"):
        rest = {"one": 0.001, "nearly one": 0.0499, "hardly more": 0.0501}[kind]  # stable rank 1 + rest
        values[1:] = np.sqrt(rest / max(1, rank - 1))
    mix = rng.normal(size=(rank, rank)) if kind != "cancelled" else np.eye(rank)
    b, a = left * values @ mix, np.linalg.inv(mix) @ right.T
    if kind == "cancelled":  # every column of B meets rows of A that add up to nothing
        b, a = np.repeat(b[:, :1], rank, axis=1), a - a.mean(axis=0)
    b *= {"zero B": 0, "small": 1e-25, "large": 1e25}.get(kind, 1)
    a *= {"zero A": 0, "small": 1e-10}.get(kind, 1)
    return b, a


def watched(content: bytes, config: bytes, table: TargetTable, step: int) -> Directions:
    source = BytesSource(content, "adapter")
    header = read_header(source, what="adapter", error=InvalidAdapterError)
    watch = DirectionWatch(header, read_checkpoint(parse_config(config), header.entries, table))
    for offset in range(0, len(content), step):
        watch(offset, memoryview(content)[offset : offset + step])
    return watch.directions(source)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=len(NAMES), max_size=len(NAMES)),
    rank=st.sampled_from([1, 2, 5]),
    dtype=st.sampled_from(["F32", "F32", "F64", "BF16", "F16"]),
    step=st.sampled_from([7, 1000, 1 << 20]),
    order=st.sampled_from(["beside", "A first"]),
    seed=st.integers(0, 1000),
)
def test_against_dense_singular_values(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], rank: int, dtype: str, step: int, order: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tensors: dict[str, RawTensor] = {}
    zero, one = [], []
    for name, drawn in zip(NAMES, kinds, strict=True):
        kind = "usual" if drawn in ("small", "large") and dtype == "F16" else drawn
        b, a = factors(kind, rank, 24, 16, rng)
        stored = {"A": RawTensor.of(a, dtype), "B": RawTensor.of(b, dtype)}
        tensors |= {f"base_model.model.{name}.lora_{key}.weight": raw for key, raw in stored.items()}
        kept_b, kept_a = stored["B"].values, stored["A"].values
        values = np.linalg.svd(kept_b @ kept_a, compute_uv=False)
        noise = 8 * rank * 2.3e-16 * np.linalg.norm(kept_b) * np.linalg.norm(kept_a)
        if values[0] <= noise:
            zero.append(name)
        elif rank > 1 and np.sum((values / values[0]) ** 2) < 1.05:
            one.append(name)
    if order == "A first":
        tensors = dict(sorted(tensors.items(), key=lambda item: "lora_B" in item[0]))
    file = tmp_path_factory.mktemp("adapter") / "adapter_model.safetensors"
    write_tensors(file, tensors)
    table = TargetTable({name: Target(name, TargetKind.LINEAR, f"{name}.weight", (24, 16)) for name in NAMES}, "test")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": NAMES}
    found = watched(file.read_bytes(), json.dumps(config).encode(), table, step)
    assert (found.pairs, found.zero, found.one) == (len(NAMES), tuple(zero), tuple(one))


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_what_float32_can_not_tell_is_read_again(tmp_path: Path, dtype: str) -> None:
    """Columns of B meet rows of A that cancel but for one direction, of which float32 sums hold only rounding."""
    names = [f"m{number:02}" for number in range(24)]
    tensors: dict[str, RawTensor] = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        b, a = np.repeat(rng.normal(size=(24, 2)), 2, axis=1), np.repeat(rng.normal(size=(2, 16)), 2, axis=0)
        a[1::2] *= -1
        a[1] *= 1 - 1e-5
        tensors[f"base_model.model.{name}.lora_A.weight"] = RawTensor.of(a, dtype)
        tensors[f"base_model.model.{name}.lora_B.weight"] = RawTensor.of(b, dtype)
    write_tensors(tmp_path / "file", tensors)
    table = TargetTable({name: Target(name, TargetKind.LINEAR, f"{name}.weight", (24, 16)) for name in names}, "test")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": names}
    found = watched((tmp_path / "file").read_bytes(), json.dumps(config).encode(), table, 1 << 20)
    assert (found.zero, found.one) == ((), tuple(names))


def test_a_rank_far_above_the_size_of_the_matrix_costs_no_more_than_its_bytes(tmp_path: Path) -> None:
    """Its Gram matrices would have four billion elements each."""
    rank, names = 1 << 16, ["m0", "m1", "m2"]
    tensors: dict[str, RawTensor] = {}
    for name in names:
        rng = np.random.default_rng(len(tensors))
        b, a = rng.normal(size=(3, rank)), rng.normal(size=(rank, 2))
        a, b = {"m0": (a, b), "m1": (a, b * 0), "m2": (a[:, :1] * [[1, 2]], b)}[name]
        tensors[f"base_model.model.{name}.lora_A.weight"] = RawTensor.of(a, "F16")
        tensors[f"base_model.model.{name}.lora_B.weight"] = RawTensor.of(b, "F16")
    write_tensors(tmp_path / "file", tensors)
    table = TargetTable({name: Target(name, TargetKind.LINEAR, f"{name}.weight", (3, 2)) for name in names}, "test")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": names}
    found = watched((tmp_path / "file").read_bytes(), json.dumps(config).encode(), table, 1 << 20)
    assert (found.zero, found.one) == (("m1",), ("m2",))


def test_alpha_zero_is_a_zero_delta(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    b, a = factors("usual", 2, 24, 16, rng)
    write_tensors(
        tmp_path / "file",
        {
            "base_model.model.m0.lora_A.weight": RawTensor.of(a, "F32"),
            "base_model.model.m0.lora_B.weight": RawTensor.of(b, "F32"),
        },
    )
    table = TargetTable({"m0": Target("m0", TargetKind.LINEAR, "m0.weight", (24, 16))}, "test")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 0, "target_modules": ["m0"]}
    found = watched((tmp_path / "file").read_bytes(), json.dumps(config).encode(), table, 1 << 20)
    assert found.zero == ("m0",)


def test_a_dora_is_not_zero(tmp_path: Path) -> None:
    """It may rescale, though it adds nothing; that its added part has one direction is told."""
    base = MAKERS["llama"](tmp_path / "base")
    (folder,) = write_recipes(tmp_path / "adapters", base, [Recipe(("q_proj", "v_proj"), r=2, dora=True)])
    tensors = read_tensors(folder / "adapter_model.safetensors")
    for name, raw in tensors.items():
        if "lora_B" in name:
            change = np.array([0.0, 0.0]) if "q_proj" in name else np.array([1.0, 1e-3])
            tensors[name] = RawTensor.of(raw.values * change, raw.dtype)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    found = _of_folder(tmp_path, base.folder, folder)
    assert found.zero == ()
    assert len(found.one) == found.pairs // 2
    assert all("v_proj" in name for name in found.one)


@pytest.mark.parametrize("planted", ["none", "zero expert", "zero", "one"])
def test_experts_count_together(tmp_path: Path, planted: str) -> None:
    """Of a fused parameter the figure is the mean of its experts, as in statistics."""
    base = MAKERS["mixtral"](tmp_path / "base")
    (folder,) = write_recipes(tmp_path / "adapters", base, [Recipe(parameters=("experts.down_proj",), r=2)])
    tensors = read_tensors(folder / "adapter_model.safetensors")
    for name, raw in tensors.items():
        if "lora_B" in name:
            values = raw.values.copy()
            by_rank = values.reshape(values.shape[0], 2, -1)  # (out, rank, experts)
            if planted == "zero expert":
                by_rank[:, :, 0] = 0
            elif planted == "zero":
                by_rank[:] = 0
            elif planted == "one":
                by_rank[:, 1] *= 1e-3
            tensors[name] = RawTensor.of(by_rank.reshape(values.shape), raw.dtype)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    found = _of_folder(tmp_path, base.folder, folder)
    assert found.pairs > 0
    assert len(found.zero) == (found.pairs if planted == "zero" else 0)
    assert len(found.one) == (found.pairs if planted == "one" else 0)


def _of_folder(root: Path, base: Path, adapter: Path) -> Directions:
    from registry.reference import Reference
    from registry.services.artifacts.load import load_path
    from registry.services.local import LocalRegistry
    from registry.tensors.lineage.paths import target_table

    registry = LocalRegistry.open(root / "registry", create=True)
    try:
        registry.add_base("net", base)
        table = target_table(registry.deployment, load_path(registry.deployment, Reference.parse("net")).base)
    finally:
        registry.close()
    with FileSource(adapter / "adapter_model.safetensors") as source:
        header = read_header(source, what="adapter", error=InvalidAdapterError)
        config = parse_config((adapter / "adapter_config.json").read_bytes())
        watch = DirectionWatch(header, read_checkpoint(config, header.entries, table))
        content = (adapter / "adapter_model.safetensors").read_bytes()
        for offset in range(0, len(content), 333):
            watch(offset, memoryview(content)[offset : offset + 333])
        return watch.directions(source)
