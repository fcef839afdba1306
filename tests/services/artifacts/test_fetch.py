"""A folder that holds a rendering already answers for whatever is asked: by other names, of other registries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from registry.client.remote import RemoteRegistry
from registry.errors import NotFoundError, RetractedError
from registry.folders.output import already_there
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import FetchCache, hold
from registry.progress import SILENT
from registry.schemas import ArtifactKind
from registry.schemas.receipt import Receipt
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from registry.tensors.artifacts.plan import Plan
from tests.folders.nobody import as_nobody, public_folder
from tests.kit import Base, add_tokenizer, plain_base, write_adapter
from tests.kit.registries import ON_HTTP
from tests.kit.serving import QUICK, served

AnyRegistry = LocalRegistry | RemoteRegistry
KINDS: Final[tuple[ArtifactKind, ...]] = ("published", "lora", "merged")


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as place:
        yield place


@pytest.fixture
def base(tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (64, 32)})
    add_tokenizer(made.folder)
    return made


@pytest.fixture
def local(tmp_path: Path, public: Path, base: Base) -> Iterator[LocalRegistry]:
    """One adapter under two names."""
    local = LocalRegistry.open(tmp_path / "registry", create=True, cache_folder=public / "cache")
    local.add_base("net", base.folder)
    one = write_adapter(tmp_path / "one", base, ["a"], r=2)
    first, second = local.publish(one, "net/first"), local.publish(one, "net/second")
    assert first.revision.digest == second.revision.digest
    yield local
    local.close()


@pytest.fixture(params=["embedded", ON_HTTP, "merged-here"])
def registry(request: pytest.FixtureRequest, local: LocalRegistry, public: Path, base: Base) -> Iterator[AnyRegistry]:
    if request.param == "embedded":
        yield local
        return
    with served(local) as url:
        client = RemoteRegistry(url, None, cache=FetchCache(public / "cache"), arithmetic=LocalArithmetic, retry=QUICK)
        if request.param == "merged-here":
            client.fetch("net", base.folder.parent / "net", kind="merged", base_dir=base.folder)
        yield client
        client.close()


def said(receipt: Receipt) -> tuple[str, tuple[str, ...]]:
    return receipt.reference, tuple(link.reference for link in receipt.lineage)


@pytest.mark.parametrize("out", [None, "out"])
def test_the_answer_is_about_what_was_asked_for(
    registry: AnyRegistry, local: LocalRegistry, public: Path, out: str | None
) -> None:
    place = None if out is None else public / out
    first = registry.fetch("net/first", place, kind="merged")
    folder = Path(first.folder)
    held = hold(folder)
    assert held is not None
    weights = _stamp(folder / "model.safetensors")
    second = registry.fetch("net/second", place, kind="merged")
    assert (second.fresh, second.folder, second.rendering) == (False, first.folder, first.rendering)
    assert (first.reference, second.reference) == ("net/first@1", "net/second@1")
    assert said(read_receipt(folder)) == ("net/second@1", ("net/second@1",))
    # the folder stays the one that programs hold, and has nothing more in it
    assert held.is_of(folder)
    held.release()
    assert _stamp(folder / "model.safetensors") == weights
    assert sorted(file.name for file in folder.parent.iterdir() if file.name.startswith(f".{folder.name}")) == []
    local.delete("net/first@1")
    checked = registry.verify(folder)
    assert (checked.equal, checked.reference) == (True, "net/second@1")
    with pytest.raises(NotFoundError):
        registry.fetch("net/first@1", place, kind="merged")


def _stamp(file: Path) -> tuple[int, int, int]:
    """What changes when a file is written; reading it changes its time of access."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def test_a_receipt_that_is_right_stays(registry: AnyRegistry, public: Path) -> None:
    registry.fetch("net/first", public / "out", kind="merged")
    receipt = (public / "out" / RECEIPT).stat()
    assert not registry.fetch("net/first@1", public / "out", kind="merged").fresh
    assert (public / "out" / RECEIPT).stat().st_ino == receipt.st_ino


def test_what_wrote_the_files_stays_in_the_receipt(registry: AnyRegistry, public: Path) -> None:
    folder = Path(registry.fetch("net/first", kind="merged").folder)
    file = folder / RECEIPT
    there = read_receipt(folder)
    older = there.model_copy(update={"versions": there.versions.model_copy(update={"torch": "1.0"})})
    file.write_text(older.model_dump_json())
    registry.fetch("net/second", kind="merged")
    assert (read_receipt(folder).versions, read_receipt(folder).reference) == (older.versions, "net/second@1")


def test_the_receipt_says_the_registry_that_was_asked(local: LocalRegistry, public: Path) -> None:
    folder = Path(local.fetch("net/first", kind="merged").folder)
    assert read_receipt(folder).registry == local.url
    with served(local) as url:
        client = RemoteRegistry(url, None, cache=FetchCache(public / "cache"), retry=QUICK)
        assert not client.fetch("net/first", kind="merged").fresh
        assert read_receipt(folder).registry == url
        client.close()


def test_the_report_is_about_what_was_asked_for(registry: AnyRegistry) -> None:
    """Other options may mean the same ranks."""
    first = registry.fetch("net/first", rank=2)
    again = registry.fetch("net/first", rank=3)
    assert (again.fresh, again.folder) == (False, first.folder)
    assert again.truncation is not None
    assert again.truncation.rank == 3
    assert read_receipt(Path(again.folder)).truncation == again.truncation


def test_another_users_folder_keeps_its_receipt_and_the_answer_is_right(local: LocalRegistry, public: Path) -> None:
    folder = Path(local.fetch("net/first", kind="merged").folder)
    there = read_receipt(folder)
    asked = there.model_copy(update={"reference": "net/second@1"})
    for closed in (folder, folder.parent):
        closed.chmod(0o555)
    with as_nobody():
        answer = already_there(folder, there.rendering, 0, lambda _: asked, SILENT)
    assert answer is not None
    assert (answer.fresh, answer.reference, answer.folder) == (False, "net/second@1", str(folder))
    assert f"{folder} still says net/first@1 of {local.url}" in answer.notices[-1]
    assert read_receipt(folder) == there


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("materialised", [False, True])
def test_a_plan_is_made_once(
    local: LocalRegistry, public: Path, monkeypatch: pytest.MonkeyPatch, kind: ArtifactKind, materialised: bool
) -> None:
    if materialised and kind != "published":
        local.materialise("net/first", kind=kind)
    made: list[str] = []
    init = Plan.__init__

    def noting(self: Plan, *args: Any, **fields: Any) -> None:
        init(self, *args, **fields)
        made.append(self.kind)

    monkeypatch.setattr(Plan, "__init__", noting)
    local.fetch("net/first", public / "out", kind=kind)
    assert made == [kind]


def _builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an artifact was built")

    monkeypatch.setattr("registry.services.artifacts.fetch.open_asked", refuse)


@pytest.mark.parametrize("out", [None, "out"])
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_a_folder_that_is_there_answers_without_building(
    local: LocalRegistry, public: Path, out: str | None, kind: ArtifactKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = None if out is None else public / out
    first = local.fetch("net/first", place, kind=kind)
    receipt = read_receipt(Path(first.folder))
    _builds_nothing(monkeypatch)
    again = local.fetch("net/first@1", place, kind=kind)
    assert again == first.model_copy(update={"fresh": False})
    assert read_receipt(Path(first.folder)) == receipt


def test_a_folder_that_is_not_whole_is_filled_again(local: LocalRegistry) -> None:
    first = local.fetch("net/first")
    weights = Path(first.folder) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert local.fetch("net/first").fresh
    assert weights.read_bytes() == whole


def test_a_folder_of_another_version_is_built_again(local: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    local.fetch("net/first")
    monkeypatch.setattr("registry.services.artifacts.fetch.__version__", "99")
    _builds_nothing(monkeypatch)
    with pytest.raises(AssertionError, match="was built"):
        local.fetch("net/first")


def test_what_was_retracted_is_refused_though_it_is_there(local: LocalRegistry) -> None:
    local.fetch("net/first", kind="merged")
    local.retract("net/first@1", reason="leaks")
    with pytest.raises(RetractedError):
        local.fetch("net/first@1", kind="merged")
