"""Archives, single files and pickles in a heap: each is an entry of the plan, and adapters come out of them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.folders.archive_entries import Entry, entries_of
from registry.schemas.publishing import ImportDocument, ImportEntry
from registry.services.local import LocalRegistry
from registry.tensors import limited
from tests.kit.serving import ServedRegistry
from tests.kit.tensor_files import RawTensor, write_tensors
from tests.services.importing.plain_heap import PlainHeap
from tests.services.publishing.parent_house import opened
from tests.services.publishing.test_archives import PICKLE, pickle_of

LORA = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert [one for one in place.iterdir() if one.name.startswith(".registry-unpacked")] == []


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalRegistry | ServedRegistry]:
    local = opened(tmp_path)
    with closing(local if request.param == "in process" else ServedRegistry(local, tmp_path / "client")) as found:
        yield found


@pytest.fixture
def heap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlainHeap:
    """Some of the folders of a heap are in archives, and one adapter is a pickle."""

    def convert(pickle: Path, out: Path) -> None:
        assert limited.write_tensors(str(pickle), str(out), 1 << 30) is None

    monkeypatch.setattr(limited, "convert_pickle", convert)
    heap = PlainHeap(tmp_path / "heap").fill()
    pack(heap.folder / "legal-lora.zip", heap.legal)
    pack(heap.folder / "share/old.tar.gz", heap.french, heap.on_french)
    pickle_of(heap.helper)
    shutil.rmtree(heap.paris)
    return heap


def pack(archive: Path, *folders: Path) -> None:
    """Move folders into an archive."""
    archive.parent.mkdir(exist_ok=True)
    top = archive.parent / "packing"
    top.mkdir()
    for folder in folders:
        shutil.move(folder, top)
    kind = "zip" if archive.suffix == ".zip" else "gztar"
    made = shutil.make_archive(str(archive).removesuffix(".zip").removesuffix(".tar.gz"), kind, top)
    assert made == str(archive)
    shutil.rmtree(top)


def entries(document: ImportDocument) -> dict[str, ImportEntry]:
    return {one.folder: one for one in document.entries}


def test_adapters_and_models_in_archives_are_placed_and_brought_in(
    team: LocalRegistry | ServedRegistry, heap: PlainHeap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive is read twice: all of it is checked before a byte is written."""
    read = Counter[str]()

    def counted(archive: Path) -> Iterator[Entry]:
        read[archive.name] += 1
        return entries_of(archive)

    monkeypatch.setattr("registry.folders.archives.entries_of", counted)
    monkeypatch.setattr("registry.folders.archive_entries.entries_of", counted)
    plan = team.plan_import(heap.folder)
    assert read == {"legal-lora.zip": 2, "old.tar.gz": 2}
    found = entries(plan.document)
    assert {place: (one.what, one.action, one.parent) for place, one in found.items()} == {
        "./net": ("base model", "add", None),
        "./legal-lora.zip/legal": ("adapter", "publish", "./net"),
        "./support": ("adapter", "publish", "./net"),
        "./merged-1": ("merged model", "skip", None),
        "./share/old.tar.gz/french": ("adapter", "publish", "./support"),
        "./share/old.tar.gz/merged-2": ("merged model", "skip", None),
    }
    assert found["./legal-lora.zip/legal"].name == "legal"
    assert str(tempfile.gettempdir()) not in plan.document.model_dump_json()
    outcomes = plan.apply()
    assert {one.path: one.state for one in outcomes} == dict.fromkeys(
        ("net", "net/legal", "net/support", "net/support/french"), "published"
    )
    assert {one.state for one in team.apply_import(plan.document)} == {"existing"}
    assert PICKLE in " ".join(team.show("net/support").revision.notices)  # type: ignore[union-attr]


def test_an_archive_is_a_heap_too_and_what_is_no_use_in_one_is_listed(tmp_path: Path) -> None:
    heap = PlainHeap(tmp_path / "heap")
    legal = heap.run("legal", heap.base.folder, seed=4)
    top = heap.folder
    ones = RawTensor.of(np.ones((2, 2)), "F32")
    (top / "loras").mkdir()
    for name in ("style", "face"):
        write_tensors(
            top / f"loras/{name}.safetensors",
            {f"{LORA}.lora_down.weight": ones, f"{LORA}.lora_up.weight": ones},
        )
    shutil.copy(legal / "adapter_model.safetensors", top / "loras/legal.safetensors")
    (top / "papers").mkdir()
    (top / "papers/todo.txt").write_text("buy milk")
    shutil.make_archive(str(top / "papers"), "zip", top / "papers")
    shutil.make_archive(str(top / "inner"), "zip", top / "loras")
    shutil.make_archive(str(top / "a-legal"), "zip", top, "legal")
    (top / "bad.tgz").write_bytes(b"\x1f\x8b no archive")
    (top / "other.7z").write_bytes(b"7z")
    (top / "link.zip").symlink_to(top / "papers.zip")
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", top))
    with closing(opened(tmp_path)) as team:
        document = team.plan_import(top).document
        found = entries(document)
        packed = entries(team.plan_import(archive).document)
    expected = {
        "./net": ("base model", "add", None),
        "./legal": ("adapter", "publish", None),
        "./a-legal.zip/legal": ("adapter", "skip", None),
        "./loras/style.safetensors": ("adapter", "refused", "unknown_target"),
        "./loras/face.safetensors": ("adapter", "refused", "unknown_target"),
        "./loras/legal.safetensors": ("weights in one file", "refused", "missing_file"),
        "./inner.zip/style.safetensors": ("adapter", "skip", None),
        "./inner.zip/face.safetensors": ("adapter", "skip", None),
        "./inner.zip/legal.safetensors": ("weights in one file", "refused", "missing_file"),
        "./papers.zip": ("archive", "skip", None),
        "./bad.tgz": ("archive", "refused", "bad_archive"),
        "./other.7z": ("archive", "skip", None),
        "./link.zip": ("archive", "skip", None),
    }
    assert {place: (one.what, one.action, one.code) for place, one in found.items()} == expected
    assert "modules that the file changes" in str(found["./loras/style.safetensors"].reason)
    assert "without its adapter_config.json" in str(found["./loras/legal.safetensors"].reason)
    assert f"{top}/inner.zip/legal.safetensors holds" in str(found["./inner.zip/legal.safetensors"].reason)
    assert found["./papers.zip"].reason == "no adapter and no model is in it"
    loose = {place: one for place, one in expected.items() if "inner.zip" not in place and "bad" not in place}
    del loose["./a-legal.zip/legal"]
    for place in ("./a-legal.zip", "./inner.zip", "./bad.tgz", "./papers.zip", "./link.zip"):
        loose[place] = ("archive", "skip", None)
    assert {place: (one.what, one.action, one.code) for place, one in packed.items()} == loose
