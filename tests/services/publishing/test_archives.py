"""Adapters in archives, and in pickles: published as from their folders, in process and over HTTP alike."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from registry.errors import InvalidAdapterError, RegistryError, UnavailableError
from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from registry.tensors import limited
from tests.kit.serving import ServedRegistry
from tests.kit.tensor_files import read_tensors
from tests.services.publishing.parent_house import House, opened

PAIR = ("adapter_config.json", "adapter_model.safetensors")
PICKLE = "adapter_model.bin"


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    local = opened(tmp_path)
    with closing(local if request.param == "in process" else ServedRegistry(local, tmp_path / "client")) as found:
        yield found


@pytest.fixture
def house(registry: Registry, tmp_path: Path, real_times: None) -> House:
    del real_times
    return House(tmp_path, registry)


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No temporary file is left by anything here."""
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert [one for one in place.iterdir() if one.name.startswith(".registry-unpacked")] == []


@pytest.fixture
def _read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process read pickles: starting a child takes seconds, and has its own tests."""

    def convert(pickle: Path, out: Path) -> None:
        problem = limited.write_tensors(str(pickle), str(out), 1 << 30)
        assert problem is None, problem

    monkeypatch.setattr(limited, "convert_pickle", convert)
    monkeypatch.setattr("registry.services.local_merge.convert_pickle", convert)


def packed(folder: Path, kind: str = "zip") -> Path:
    """An archive beside a folder, which holds that."""
    return Path(shutil.make_archive(str(folder), kind, folder.parent, folder.name))


def pickle_of(folder: Path) -> Path:
    """The folder, whose weights are a pickle from now on, as PEFT wrote them before 0.6."""
    file = folder / PAIR[1]
    found = read_tensors(file)
    tensors = {name: torch.from_numpy(raw.values.copy()).to(torch.float32) for name, raw in found.items()}
    torch.save(tensors, folder / PICKLE)
    file.unlink()
    return folder


def test_an_archive_is_published_as_its_folder_is(house: House) -> None:
    folder = house.adapter("legal")
    expected = house.registry.preview(folder, "net/legal")
    for number, kind in enumerate(("zip", "tar", "gztar")):
        archive = packed(folder, kind)
        seen = house.registry.preview(archive, f"net/legal-{number}")
        assert [(one.path, one.digest) for one in seen.files] == [(one.path, one.digest) for one in expected.files]
        answer = house.registry.publish(archive, f"net/legal-{number}", metrics={"acc": 0.5})
        assert answer.created
        assert answer.revision.digest == expected.digest
        assert answer.left_out == ()
        archive.unlink()
    again = house.registry.publish(packed(folder) / "legal", "net/legal-0")
    assert not again.created
    identified = house.registry.identify(folder.with_suffix(".zip"))
    assert identified.folder == f"{folder}.zip/legal"
    assert len(identified.published) == 3


@pytest.mark.slow
def test_nested_folders_and_full_models_in_archives(house: House) -> None:
    tree = house.folder / "tree"
    tree.mkdir()
    shutil.move(house.adapter("legal"), tree / "legal")
    shutil.move(house.adapter("contracts", seed=5), tree / "legal/contracts")
    answers = house.registry.publish_tree(packed(tree) / "tree", "net")
    assert [one.revision.path for one in answers] == ["net/legal", "net/legal/contracts"]
    merged = house.merged("merged", [house.support[0]])
    full = house.registry.publish(packed(merged), "net/whole", full=True)
    assert full.revision.digest == house.registry.publish(merged, "net/whole-2", full=True).revision.digest


def test_what_is_refused_stores_nothing_and_names_the_archive(house: House) -> None:
    before = house.registry.search(all_revisions=True)
    (spoilt := house.adapter("spoilt")).joinpath(PAIR[0]).write_text("{}")
    lonely = house.adapter("lonely")
    lonely.joinpath(PAIR[0]).unlink()
    linked = house.adapter("linked")
    linked.joinpath("notes").symlink_to("/etc/passwd")
    for archive, said in (
        (packed(spoilt), "adapter_config.json"),
        (
            packed(lonely),
            f"{house.folder}/lonely.zip/lonely holds adapter_model.safetensors, weights of a PEFT adapter",
        ),
        (packed(linked, "tar"), "which is a link and no file"),
    ):
        for call in (house.registry.publish, house.registry.preview):
            with pytest.raises(InvalidAdapterError) as caught:
                call(archive, "net/new")
            assert said in str(caught.value)
            assert "unpacked." not in str(caught.value)
            assert str(house.folder / "temporary") not in str(caught.value)
    with pytest.raises(RegistryError, match="holds weights of a PEFT adapter without its"):
        house.registry.publish(Path(shutil.copy(house.support[0] / PAIR[1], house.folder / "x.safetensors")), "net/x")
    assert house.registry.search(all_revisions=True) == before


def test_times_in_an_archive_prove_no_parent(house: House) -> None:
    """Neither that the folder which it was trained on is older, nor that it is newer."""
    merged = house.merged("merged", [house.support[0]])
    child = house.adapter("child", merged)
    now = time.time()
    for folder, days in ((merged, 9), (child, 5)):
        for file in folder.iterdir():
            os.utime(file, (now - days * 86_400, now - days * 86_400))
    for number, kind in enumerate(("zip", "tar")):
        answer = house.registry.publish(packed(child, kind), f"net/support/child-{number}")
        assert answer.revision.parent == "net/support@1"
        assert answer.revision.parent_known_by == "compared_untimed"
    both = house.folder / "both"
    both.mkdir()
    inner = house.adapter("inner", "../merged")
    for folder in (merged, inner):
        shutil.copytree(folder, both / folder.name)
    answer = house.registry.publish(packed(both, "gztar") / "both/inner", "net/support/inner")
    assert answer.revision.parent_known_by == "compared_untimed"
    assert f"{both}.tar.gz/both/inner" in answer.parent_reason


@pytest.mark.usefixtures("_read_here")
def test_a_pickle_is_read_where_it_lies_written_as_safetensors_and_said(house: House) -> None:
    folder = house.adapter("old")
    values = {name: raw.values for name, raw in read_tensors(folder / PAIR[1]).items()}
    pickle_of(folder)
    answer = house.registry.publish(folder, "net/old")
    assert [(one.path, one.reason) for one in answer.left_out] == [
        (PICKLE, "pickle, whose tensors were read and written as adapter_model.safetensors")
    ]
    said = "The weights were in adapter_model.bin, a pickle: its tensors were read, nothing else of it, and written"
    assert any(notice.startswith(said) for notice in answer.revision.notices)
    assert sorted(one.name for one in folder.iterdir()) == [PAIR[0], PICKLE]
    fetched = house.folder / "fetched"
    house.registry.fetch("net/old", fetched, kind="published")
    read = read_tensors(fetched / PAIR[1])
    assert read.keys() == values.keys()
    assert all((read[name].values == value).all() for name, value in values.items())
    assert not house.registry.publish(packed(folder), "net/old").created
    assert house.registry.identify(folder).published == ("net/old@1",)
    with closing(LocalRegistry.open(house.folder / "elsewhere", create=True)) as other:
        house.registry.copy("net/old", other)
        copied = other.show("net/old").revision
        assert copied is not None
        assert any(notice.startswith(said) for notice in copied.notices)


@pytest.mark.usefixtures("_read_here")
def test_the_times_of_a_pickle_count_not_those_of_what_was_written_of_it(house: House) -> None:
    merged = house.merged("merged", [house.support[0]])
    child = pickle_of(house.adapter("child", merged))
    now = time.time()
    for folder, days in ((merged, 5), (child, 9)):
        for file in folder.iterdir():
            os.utime(file, (now - days * 86_400, now - days * 86_400))
    with pytest.raises(RegistryError) as caught:
        house.registry.publish(child, "net/support/child")
    assert "later" in str(caught.value) or "newer" in str(caught.value)


@pytest.mark.slow
def test_a_pickle_in_a_tree_and_one_that_is_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree := house.folder / "tree").mkdir()
    shutil.move(pickle_of(house.adapter("old")), tree / "old")

    def refused(pickle: Path, _: Path) -> None:
        raise InvalidAdapterError(f"{pickle} is none.", code="pickle")

    monkeypatch.setattr(limited, "convert_pickle", refused)
    monkeypatch.setattr("registry.services.local_merge.convert_pickle", refused)
    with pytest.raises(InvalidAdapterError, match=r"adapter_model\.bin is none") as caught:
        house.registry.publish_tree(tree, "net")
    assert caught.value.code == "pickle"


@pytest.mark.slow
def test_a_client_without_torch_says_so(tmp_path: Path) -> None:
    with closing(ServedRegistry(opened(tmp_path), tmp_path / "client")) as served:
        remote = served
        remote._arithmetic = None
        with pytest.raises(UnavailableError, match=r"torch is needed to read .*adapter_model\.bin, a pickle"):
            remote._from_pickle(tmp_path / PICKLE, tmp_path / "out")
