"""Many paths over one base in a bucket: the base comes once, and is in memory once.

A model in one file that has an index, too, as mlx-lm writes it: both say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import InvalidBaseError
from registry.memory import MemoryCache
from registry.schemas import Options
from registry.services.artifacts.opened import ask, open_asked
from registry.services.local import LocalRegistry
from registry.storage import caching
from registry.storage.s3 import S3Driver
from registry.tensors.path.slot_values import SlotValues
from tests.kit import plain_base, write_adapter
from tests.kit.servers import S3Place
from tests.kit.shim import Shim
from tests.kit.tensor_files import read_tensors

PIECE = 256 * 1024
PATHS = 50


@pytest.fixture
def shim(s3_store: S3Place) -> Iterator[Shim]:
    with Shim(s3_store.endpoint) as shim:
        yield shim


@pytest.fixture
def team(
    tmp_path: Path, s3_store: S3Place, shim: Shim, postgres_migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalRegistry]:
    """A registry with many paths over a base of 2 MB."""
    for name, value in {**s3_store.environ, "AWS_ENDPOINT_URL": shim.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(caching, "PIECE", PIECE)
    registry = LocalRegistry.of(postgres_migrated_url, S3Driver(s3_store.url), cache_folder=tmp_path / "cache")
    base = plain_base(tmp_path / "base", {"a.weight": (512, 512), "b.weight": (512, 512)}, shards=2)
    registry.add_base("plain", base.folder)
    for number in range(PATHS):
        folder = write_adapter(tmp_path / f"adapter-{number}", base, ["a", "b"], r=4, seed=number)
        registry.publish(folder, f"plain/p{number}")
    yield registry
    registry.close()


def merged(registry: LocalRegistry, path: str) -> dict[str, bytes]:
    asked = ask(registry.deployment, path, Options(kind="merged"))
    with open_asked(registry.deployment, asked) as artifact:
        return {name: file.read() for name, file in artifact.files.items()}


@pytest.mark.slow
def test_the_base_is_read_once_and_kept_once(team: LocalRegistry, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {number: merged(team, f"plain/p{number}") for number in range(0, PATHS, 4)}
    memory = MemoryCache(64 << 20)
    service = team.with_memory(memory)
    weights = [
        file
        for file in ask(team.deployment, "plain/p0", Options(kind="merged")).path.base.files
        if file.path.endswith(".safetensors")
    ]
    assert shim.seen()
    shim.forget()
    for number in range(PATHS):
        files = merged(service, f"plain/p{number}")
        assert files == alone.get(number, files)
    asked = sum(len(shim.seen("GET", place.key)) for place in weights)
    headers = len(weights)  # read alone, by the first plan; later ones find the piece
    assert asked == sum(-(-place.size // PIECE) for place in weights) + headers
    adapters = {
        file.key: file.size
        for number in range(PATHS)
        for file in ask(team.deployment, f"plain/p{number}", Options(kind="merged")).path.links[-1].files
    }
    small = sum(file.size for file in ask(team.deployment, "plain/p0", Options(kind="merged")).path.base.files)
    assert memory.use()["rows"].bytes <= small + sum(adapters.values()) + (1 << 20)  # and the table
    made: list[object] = []
    factors = SlotValues._factors

    def counted(self: SlotValues, pairs: object) -> object:
        made.append(self.slot)
        return factors(self, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(SlotValues, "_factors", counted)
    for number in range(PATHS):
        merged(service, f"plain/p{number}")
    assert made == [], "factors of a path that was opened anew are there still"
    off = LocalRegistry(replace(team.deployment, memory=MemoryCache(0)), team._cache)
    assert merged(off, "plain/p4") == alone[4]
    assert len(made) == 2


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def test_an_index_of_the_one_file_contradicts_nothing(tmp_path: Path) -> None:
    folder = plain_base(tmp_path / "base").folder
    names = list(read_tensors(folder / SINGLE))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, SINGLE)}))
    with LocalRegistry.open(tmp_path / "registry", create=True) as team:
        team.add_base("net", folder)
        fetched = Path(team.fetch("net", tmp_path / "fetched", kind="merged").folder)
        for name in (SINGLE, INDEX):
            assert (fetched / name).read_bytes() == (folder / name).read_bytes()
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names[1:], SINGLE)}))
        with pytest.raises(InvalidBaseError, match=f"{INDEX} puts tensor") as less:
            team.add_base("less", folder)
        assert less.value.code == "bad_index"


def test_an_index_of_other_files_does(tmp_path: Path) -> None:
    folder = plain_base(tmp_path / "base", shards=2).folder
    (folder / SINGLE).write_bytes(next(folder.glob("model-*")).read_bytes())
    with (
        LocalRegistry.open(tmp_path / "registry", create=True) as team,
        pytest.raises(InvalidBaseError, match=r"has both .* which names other files") as refused,
    ):
        team.add_base("net", folder)
    assert refused.value.code == "bad_index"
