"""Native names at real size: unique factors of rank 1 for every module, held to diffusers' converters row for row.

No weight is made: a factor of rank 1 has as many numbers as its module has rows or columns, and a converter of
checkpoints that cuts, joins and swaps rows does the same to tensors of one column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from safetensors.torch import save

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry, read_header
from registry.files.source import BytesSource, read_range
from registry.images.adapter_file import as_bytes, made_config
from registry.images.native_names import family_of
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.factors import FactorMatrix
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.architecture import make_table
from registry.tensors.table.targets import TargetKind, TargetTable
from tests.images.real_configs import REAL, SDXL
from tests.images.test_native_names import converted
from tests.images.test_shipped_tables import tensors_of

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

CONVERTERS = {
    "sd-1.5": "sd", "sdxl": "sdxl", "sd-3.5": "sd-3", "flux.1": "flux", "flux.2": "flux-2", "wan": "wan",
    "wan-of-images": "wan", "z-image": "z-image",
}  # fmt: skip


def table_of(name: str) -> TargetTable:
    config, _, _ = REAL[name]
    return make_table(config, tensors_of(config))


def shapes_of(table: TargetTable) -> Shapes:
    kinds = (TargetKind.LINEAR, TargetKind.CONV)
    return {module: target.shape for module, target in table.targets.items() if target.kind in kinds}


def native_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Every module once: by its native name, or by diffusers' where the model calls it so itself."""
    family = family_of(shapes)
    names = {} if family is None else dict(family.names(shapes))
    native = {name: modules for name, modules in names.items() if ".processor." not in name}  # XLabs' rows are others'
    named = [module for modules in native.values() for module in modules]
    assert len(named) == len(set(named))
    return native | {module: (module,) for module in shapes if module not in set(named)}


class Numbers:
    """Numbers that no other row has, in an order that no slice keeps."""

    def __init__(self) -> None:
        self._next = 1
        self._drawn = torch.Generator().manual_seed(7)

    def take(self, count: int) -> torch.Tensor:
        found = torch.randperm(count, generator=self._drawn) + self._next
        self._next += count
        assert self._next < 1 << 24  # float32 holds each
        return found.to(torch.float32)


def read(tensors: Tensors, table: TargetTable) -> tuple[Checkpoint, BytesSource]:
    """A file of these tensors as an adapter of the base model."""
    data = save(tensors)
    assert len(data) < 64 << 20
    source = BytesSource(data, "the file")
    header = read_header(source, what="the file", error=InvalidAdapterError)

    def bytes_of(entry: TensorEntry) -> bytes:
        return bytes(read_range(source, entry.start, entry.stop))

    config = parse_config(as_bytes(made_config(header, bytes_of, "real.safetensors")))
    return read_checkpoint(config, header.entries, table), source


def values(matrix: FactorMatrix, source: BytesSource) -> torch.Tensor:
    return matrix.read(source, 0, matrix.shape[0])


def factors(native: Mapping[str, tuple[str, ...]], shapes: Shapes) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Native module, its A and its B."""
    rows, columns = Numbers(), Numbers()
    for name, modules in native.items():
        inner = shapes[modules[0]][1:]
        count = sum(shapes[module][0] for module in modules)
        a = columns.take(math.prod(inner)).reshape(1, *inner)
        yield name, a, rows.take(count).reshape(count, 1, *(1 for _ in inner[1:]))


def check(name: str, *, flat: bool) -> None:
    table = table_of(name)
    shapes = shapes_of(table)
    native = native_of(shapes)
    made = {module: (a, b) for module, a, b in factors(native, shapes)}
    lead, tail = ("lora_unet_", ("lora_down", "lora_up")) if flat else ("diffusion_model.", ("lora_A", "lora_B"))
    file: Tensors = {}
    for module, (a, b) in made.items():
        spelled = lead + (module.replace(".", "_") if flat else module)
        file |= {f"{spelled}.{tail[0]}.weight": a, f"{spelled}.{tail[1]}.weight": b}
    checkpoint, source = read(file, table)
    assert set(checkpoint.pairs) == set(shapes)
    expected = _rows_by_converter(name, {module: b.reshape(-1, 1) for module, (_, b) in made.items()})
    for module, modules in native.items():
        for one in modules:
            pair = checkpoint.pairs[one]
            assert (pair.rank, pair.scaling) == (1, 1)
            assert torch.equal(values(pair.a_matrix, source), made[module][0].reshape(1, -1))
            assert torch.equal(values(pair.b_matrix, source), expected[f"{one}.weight"])


def _rows_by_converter(name: str, columns: Tensors) -> Tensors:
    """What diffusers makes of a checkpoint whose weights have one column."""
    if name not in CONVERTERS:
        return {f"{module}.weight": column for module, column in columns.items()}
    checkpoint = {f"{module}.weight": column for module, column in columns.items()}
    checkpoint |= {f"{module}.bias": column[:, 0] for module, column in columns.items()}
    config, _, _ = REAL[name]
    norms = {tensor: torch.zeros(shape) for tensor, (_, shape) in tensors_of(config).items() if ".norm_" in tensor}
    norms["pos_embed.pos_embed"] = torch.zeros(1)
    filled = {"class_embed_type": None, "addition_embed_type": None, **config}
    return converted(CONVERTERS[name], checkpoint, norms, filled)


@pytest.mark.parametrize("flat", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["dots", "underlines"])
@pytest.mark.parametrize(
    "name",
    [
        "flux.1",
        *(pytest.param(one, marks=pytest.mark.slow)
          for one in ("sd-1.5", "sdxl", "sd-3.5", "flux.2", "qwen-image", "wan", "wan-of-images", "z-image")),
    ],
)  # fmt: skip
def test_every_row_of_a_real_model_is_where_diffusers_puts_it(name: str, flat: bool) -> None:
    check(name, flat=flat)


@pytest.mark.parametrize(("name", "rows"), [("flux.1", 6_151_296), ("flux.2", 4_188_288), ("sdxl", 3_077_768)])
def test_the_rows_of_all_tensors_are_counted_once(name: str, rows: int) -> None:
    files = {tensor: shape for tensor, (_, shape) in tensors_of(REAL[name][0]).items()}
    assert sum(shape[0] for shape in files.values()) == rows
    shapes = shapes_of(table_of(name))
    counted = sum(
        files[f"{module}.{leaf}"][0]
        for modules in native_of(shapes).values()
        for module in modules
        for leaf in ("weight", "bias")
        if f"{module}.{leaf}" in files
    )
    norms = sum(shape[0] for tensor, shape in files.items() if tensor.rpartition(".")[0] not in shapes)
    assert counted + norms == rows


def test_every_module_of_sdxl_has_two_spellings_and_no_two_share_one() -> None:
    files = tensors_of(SDXL)
    everything = {tensor.rpartition(".")[0]: () for tensor in files}
    family = family_of(everything)
    assert family is not None
    native = dict(family.names(everything))
    assert len(everything) == len(native) == 1050
    assert sorted(modules[0] for modules in native.values()) == sorted(everything)
    flat = [name.replace(".", "_") for name in (*everything, *native)]
    assert len(set(flat)) == 2100


@pytest.mark.parametrize("own", [True, False], ids=["diffusers", "native"])
def test_kohya_s_794_modules_of_sdxl_are_found_in_both_spellings(own: bool) -> None:
    table = table_of("sdxl")
    shapes = shapes_of(table)
    names = {module: (module,) for module in shapes} if own else native_of(shapes)
    file: Tensors = {}
    marks = {}
    for number, (name, (module,)) in enumerate(names.items(), 1):
        rows, *inner = shapes[module]
        lead, ones = f"lora_unet_{name.replace('.', '_')}", (1,) * len(inner[1:])
        file[f"{lead}.lora_down.weight"] = torch.full((1, *inner), float(number))
        file[f"{lead}.lora_up.weight"] = torch.ones(rows, 1, *ones)
        file[f"{lead}.alpha"] = torch.tensor(0.5)
        marks[module] = float(number)
    checkpoint, source = read(file, table)
    assert len(checkpoint.pairs) == 794
    for module, pair in checkpoint.pairs.items():
        assert pair.scaling == 0.5
        assert values(pair.a_matrix, source)[0, 0] == marks[module]
