"""Folders that can't be looked into: a sentence that names them, and never that something is missing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.errors import InvalidAdapterError, InvalidBaseError, NotAllowedError, UnavailableError
from registry.folders.nested import nested_adapters
from registry.folders.output import absolute, may_fill, receipt_of_rendering
from registry.folders.receipts import read_receipt
from registry.folders.scan import adapter_folder, scan
from registry.progress import SILENT
from registry.services.local import LocalRegistry
from registry.transfer.model_files import read_model_files
from tests.folders.nobody import as_nobody, public_folder
from tests.kit import plain_base, write_adapter


@pytest.fixture
def public() -> Iterator[Path]:
    with public_folder() as place:
        yield place


@pytest.fixture
def closed(public: Path) -> Path:
    """A folder that only its owner may enter; of a user who is not root, not even that."""
    folder = public / "closed"
    folder.mkdir()
    folder.chmod(0)
    return folder


@pytest.mark.parametrize("look", [absolute, lambda place: may_fill(place, force=True)], ids=["resolve", "look"])
@pytest.mark.parametrize("below", ["out", "deeper/out"])
def test_a_place_to_fill(closed: Path, look: Callable[[Path], object], below: str) -> None:
    with as_nobody(), pytest.raises(NotAllowedError, match="choose another folder") as refused:
        look(closed / below)
    assert refused.value.code == "read_only"
    assert str(closed / below) in str(refused.value)


def test_a_receipt(closed: Path) -> None:
    with as_nobody():
        assert receipt_of_rendering(closed / "out", "sha256:0", 0, SILENT) is None
        with pytest.raises(InvalidAdapterError, match="can't be read"):
            read_receipt(closed / "out", InvalidAdapterError)


@pytest.mark.parametrize(
    "read",
    [
        adapter_folder,
        read_model_files,
        lambda folder: scan(folder, InvalidBaseError),
        lambda folder: nested_adapters(folder, "net", {}),
    ],
    ids=["adapter", "base", "any", "nested"],
)
@pytest.mark.parametrize("below", [".", "model"], ids=["itself", "in one"])
def test_a_folder_to_read(closed: Path, read: Callable[[Path], object], below: str) -> None:
    with as_nobody(), pytest.raises(UnavailableError, match="can't be read: Permission denied") as refused:
        read(closed / below)
    assert str(closed) in str(refused.value)


def test_a_folder_in_a_folder_is_not_dropped_silently(public: Path) -> None:
    base = plain_base(public / "base", {"a.weight": (24, 16)})
    tree = public / "tree"
    adapter = write_adapter(tree / "one", base, ["a"], r=2)
    (adapter / "extra").mkdir()
    (adapter / "extra").chmod(0)
    with as_nobody():
        with pytest.raises(UnavailableError, match=r"extra can't be read: Permission denied"):
            adapter_folder(adapter)
        one, extra = nested_adapters(tree, "net", {}).nodes
    assert (one.place, one.problem, extra.place) == ("one", None, "one/extra")
    assert isinstance(extra.problem, UnavailableError)
    assert "extra can't be read: Permission denied" in str(extra.problem)


def test_the_weights_of_a_base(public: Path) -> None:
    base = plain_base(public / "base", {"a.weight": (24, 16)})
    weights = next(base.folder.glob("*.safetensors"))
    weights.chmod(0)
    with as_nobody(), pytest.raises(UnavailableError, match="can't be read: Permission denied") as refused:
        read_model_files(base.folder)
    assert str(weights) in str(refused.value)


@pytest.mark.parametrize("create", [False, True])
def test_a_registry(closed: Path, create: bool) -> None:
    with as_nobody(), pytest.raises(NotAllowedError if create else UnavailableError) as refused:
        LocalRegistry.open(closed / "registry", create=create)
    assert str(closed / "registry") in str(refused.value)
    assert refused.value.code == ("read_only" if create else "unavailable")
