"""A parameter in runs of rows, some of them in another order: what is merged lies in the files where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from registry.errors import IntegrityError
from registry.files.header import read_header
from registry.files.source import NOWHERE, FileSource
from registry.tensors.artifacts.merged import merged_file
from registry.tensors.checkpoint.factors import Held
from registry.tensors.path import slot_values
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import PathPrograms, Program
from registry.tensors.path.steps import Add, BoundPair
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot

COLUMNS = 5


@st.composite
def runs(draw: st.DrawFn) -> tuple[Run, ...]:
    """Up to three runs, each in a tensor of its own, with rows of others before and behind it."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        grid = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
        rows = grid[0] * grid[1] * draw(st.integers(1, 4))
        found.append(Run(f"t{number}", draw(st.integers(0, 3)), rows, grid))
    return tuple(found)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(found=runs(), rows_a_block=st.sampled_from([1, 3, 4, 16]), seed=st.integers(0, 99))
def test_rows_go_back_to_where_they_were(
    found: tuple[Run, ...], rows_a_block: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_values, "block_rows", lambda _rows, _columns: rows_a_block)
    draw = torch.Generator().manual_seed(seed)
    dtypes = [torch.float32, torch.bfloat16, torch.float64]
    files = {
        run.tensor: torch.randn(run.first + run.rows + 2, COLUMNS, generator=draw).to(dtypes[number % 3])
        for number, run in enumerate(found)
    }
    save_file(files, tmp_path / "in.safetensors")
    rows = sum(run.rows for run in found)
    a, b = torch.randn(2, COLUMNS, generator=draw), torch.randn(rows, 2, generator=draw)

    expected = {name: tensor.clone() for name, tensor in files.items()}
    at = 0
    for run in found:
        for row in range(run.rows):
            stored = run.first + run.stored(row)
            value = files[run.tensor][stored].double() + b[at + row].double() @ a.double()
            expected[run.tensor][stored] = value.to(expected[run.tensor].dtype)
        at += run.rows

    path = tmp_path / "in.safetensors"
    with FileSource(path) as source:
        header = read_header(source, what="in", error=IntegrityError)
        base = BaseTensors({name: (source, entry) for name, entry in header.entries.items()})
        slot = Slot("w", 0, rows, COLUMNS, runs=found)
        program = Program(slot, (Add(0, BoundPair(Held(a), Held(b), 1.0, NOWHERE)),), slot)
        assert torch.equal(gathered_rows(base, slot), torch.cat([run_rows(files, run) for run in found]).double())
        changed = PathPrograms({slot: program}).placed()
        out = merged_file("out.safetensors", header, base, changed, (), None)
        (tmp_path / "out.safetensors").write_bytes(out.read())
        some = slice(out.size // 3, out.size // 2)
        assert bytes(out.read(some.start, some.stop)) == (tmp_path / "out.safetensors").read_bytes()[some]
    merged = load_file(tmp_path / "out.safetensors")
    for name, tensor in expected.items():
        # a row in another place is off by about 1
        tolerance = 2e-2 if tensor.dtype is torch.bfloat16 else 1e-5
        assert torch.allclose(merged[name].double(), tensor.double(), rtol=tolerance, atol=tolerance)


def gathered_rows(base: BaseTensors, slot: Slot) -> torch.Tensor:
    return base.rows(slot)(0, slot.rows).double()


def run_rows(files: dict[str, torch.Tensor], run: Run) -> torch.Tensor:
    return torch.stack([files[run.tensor][run.first + run.stored(row)].double() for row in range(run.rows)])
