"""PEFT's own tables of LoRA configurations through publish, merge and composition, judged by PEFT; a row a test.

Each link is trained by PEFT on the model that PEFT merged below it. What the registry merges is compared with PEFT's
chain, weight by weight, with PEFT's merge in float64, and by the output of the last link as it was trained. The
composed adapter is loaded by PEFT into the base and compared in the same way, and published again. A row that the
registry refuses says by which code.
"""

from __future__ import annotations

import itertools
import random
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from registry.services.local import LocalRegistry
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from tests.architectures.links import parted
from tests.architectures.nets import NETS, output
from tests.architectures.peft_rows import OWN, TRANSFORMERS, Row
from tests.architectures.tiny import tiny_model
from tests.architectures.trial import Base, Verdict, as_it_is, try_links

SEED = 25
FEW = OWN[:: len(OWN) // 12]
NOT_MERGED_BY_PEFT = ("conv3d-flat",)
"""Nets whose links PEFT can't merge: rows of theirs are judged by outputs alone, and nothing stands on them."""
TAKEN: dict[str, list[Row]] = {}
"""Rows that a link may be, by model."""
for _row in (*OWN, *TRANSFORMERS):
    if not _row.refused and _row.model not in NOT_MERGED_BY_PEFT:
        TAKEN.setdefault(_row.model, []).append(_row)


@pytest.fixture(scope="module")
def bases() -> Iterator[dict[str, Base]]:
    """Models that were made, by name."""
    made: dict[str, Base] = {}
    yield made
    for base in made.values():
        for registry in base.opened:
            if isinstance(registry, LocalRegistry):
                registry.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an empty registry, and the models beside it."""
    folder = tmp_path_factory.mktemp("rows")
    LocalRegistry.open(folder / "template", create=True).close()
    return folder


def base_of(model: str, home: Path) -> Base:
    """A new folder with the model of a row."""
    folder = home / model.replace(":", "-")
    if model in NETS:
        return Base(NETS[model].save(folder), NETS[model], home / "template")
    kind, cls = model.split(":")
    found = getattr(transformers, cls)
    tiny_model(kind, found).save_pretrained(folder)
    return Base(folder, found, home / "template")


def judge(rows: tuple[Row, ...], bases: dict[str, Base], home: Path, work: Path) -> Verdict:
    """What becomes of a chain of these configurations."""
    model = rows[0].model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model not in bases:
            bases[model] = base_of(model, home)
        name = f"rows-{zlib.crc32(repr(rows).encode()):08x}"
        part = parted if any(row.parted for row in rows) else as_it_is
        links = [row.options for row in rows]
        return try_links(model, name, bases[model], links, work, part, output)


def drawn(count: int) -> list[tuple[Row, Row]]:
    """So many pairs of rows of one model, the same ones every time."""
    chance = random.Random(SEED)
    return [(first, chance.choice(TAKEN[first.model]))
            for first in chance.sample([row for rows in TAKEN.values() for row in rows], count)]  # fmt: skip


def registered_anew(rows: tuple[Row, ...]) -> bool:
    """Whether PEFT has merged one of two parameters, and then wraps both of the model that it has in memory.

    Merging registers a parameter behind the others, so that the two are nested in another order than in the model that
    transformers loads. The file does not say so, but the shapes do, and PEFT could not load it either.
    """
    first, second = (row.options.get("target_parameters", []) for row in (rows * 2)[:2])
    return any(one.startswith("0.") and "gate_up" in one for one in first) and not (
        {one.rpartition(".")[2] for one in second} < {"gate_up_proj", "down_proj"}
        or any(one.startswith("0.") for one in second)
    )


def check(rows: tuple[Row, ...], found: Verdict) -> None:
    """One of a chain that the registry refuses is told; all else is what PEFT makes of it."""
    refused = next((row.refused for row in rows if row.refused), "shape_mismatch" if registered_anew(rows) else "")
    if refused:
        assert (found.verdict, found.code) == ("refused", refused), found
    else:
        assert (found.verdict, found.composed) == ("exact", "exact"), found


def named(rows: tuple[Row, ...]) -> str:
    """For people."""
    return " / ".join(row.id for row in rows)


@pytest.mark.parametrize("row", FEW, ids=lambda row: row.id)
def test_some_rows(row: Row, bases: dict[str, Base], home: Path, tmp_path: Path) -> None:
    check((row,), judge((row,), bases, home, tmp_path))


OTHERS = [row for row in (*OWN, *TRANSFORMERS) if row not in FEW]
IN_TURN = [
    pytest.param(row, id=row.id, marks=pytest.mark.long if number % 4 else ()) for number, row in enumerate(OTHERS)
]


@pytest.mark.slow
@pytest.mark.parametrize("row", IN_TURN)
def test_row(row: Row, bases: dict[str, Base], home: Path, tmp_path: Path) -> None:
    check((row,), judge((row,), bases, home, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("rows", drawn(30), ids=named)
def test_row_on_a_row(rows: tuple[Row, Row], bases: dict[str, Base], home: Path, tmp_path: Path) -> None:
    check(rows, judge(rows, bases, home, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("model", TAKEN)
def test_every_row_on_every_row(model: str, bases: dict[str, Base], home: Path, tmp_path: Path) -> None:
    for number, rows in enumerate(itertools.product(TAKEN[model], repeat=2)):
        work = tmp_path / str(number)
        work.mkdir()
        check(rows, judge(rows, bases, home, work))
        shutil.rmtree(work)


def test_what_is_not_as_peft_makes_it_is_told(
    bases: dict[str, Base], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness itself: a scaling that is twenty millionths off is seen in the weights."""
    right = LoraAdapterConfig.scaling
    monkeypatch.setattr(LoraAdapterConfig, "scaling", lambda *given: right(*given) * 1.00002)
    found = judge((Row("mlp", {"target_modules": ["lin0"]}),), bases, home, tmp_path)
    assert (found.verdict, found.code) == ("wrong", "merged")
