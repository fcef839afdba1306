"""A publish reads its folder once, and what changes there before it is hashed is noticed.

A base model's files while they are hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import IntegrityError, InvalidAdapterError
from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from registry.services.publishing.candidates import check_draft
from registry.transfer.source import given_adapter
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", made.folder)
    return made


def test_each_folder_is_read_once(
    registry: Registry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noting(place: Path, *given: Any) -> Any:
        read.append(place.name)
        return given_adapter(place, *given)

    monkeypatch.setattr("registry.transfer.publish_request.given_adapter", noting)
    write_adapter(tmp_path / "tree/x", base, ["a"], seed=1)
    write_adapter(tmp_path / "tree/x/y", base, ["b"], seed=2)
    registry.publish_tree(tmp_path / "tree", "net")
    registry.publish(write_adapter(tmp_path / "one", base, ["a"], seed=3), "net/one")
    registry.preview(write_adapter(tmp_path / "two", base, ["a"], seed=4), "net/two")
    assert read == ["x", "y", "one", "two"]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_that_changes_after_it_was_checked_is_refused(
    registry: Registry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another configuration with the same meaning, and weights with another header of the same length."""
    folder = write_adapter(tmp_path / "adapter", base, ["a"], seed=1)

    def after(check: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*args: Any, **how: Any) -> Any:
            found = check(*args, **how)
            data = (folder / name).read_bytes()
            swapped = data.replace(b"lora_A", b"lora_X") if name == WEIGHTS else data + b"\n"
            (folder / name).write_bytes(swapped)
            return found

        return changing

    if isinstance(registry, LocalRegistry):
        monkeypatch.setattr("registry.services.publishing.publish.check_draft", after(check_draft))
        with pytest.raises(InvalidAdapterError, match="changed in the meantime") as refused:
            registry.publish(folder, "net/one")
        assert refused.value.code == ("bad_config" if name == CONFIG else "bad_safetensors")
    else:
        from registry.client.publish import plan_publish

        monkeypatch.setattr("registry.client.publish.plan_publish", after(plan_publish))
        with pytest.raises(IntegrityError, match="was changed while it was read"):
            registry.publish(folder, "net/one")
    assert registry.search().revisions == ()


def test_what_was_checked_is_what_is_published_of_a_nested_folder(
    registry: Registry, base: Base, tmp_path: Path
) -> None:
    """All of it is checked first: what is written there while the first are published is not taken for checked."""
    write_adapter(tmp_path / "tree/x", base, ["a"], seed=1)
    below = write_adapter(tmp_path / "tree/x/y", base, ["b"], seed=2)

    def spoil(_: object) -> None:
        (below / CONFIG).write_bytes((below / CONFIG).read_bytes() + b"\n")

    with pytest.raises((InvalidAdapterError, IntegrityError), match="was changed") as refused:
        registry.publish_tree(tmp_path / "tree", "net", published=spoil)
    assert refused.value.code in {"bad_config", "upload_mismatch"}
    assert [one.reference for one in registry.search().revisions] == ["net/x@1"]


class Renaming:
    """Somebody who writes other names into a file of the same size as soon as its header was read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def begin(self, what: str, total: int) -> None:
        del what, total
        data = self.file.read_bytes()
        swapped = data.replace(b'"a.weight"', b'"?.weight"').replace(b'"b.weight"', b'"a.weight"')
        self.file.write_bytes(swapped.replace(b'"?.weight"', b'"b.weight"'))

    def advance(self, amount: int) -> None:
        """No matter."""


def test_tensors_are_those_of_the_header_that_is_hashed(tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", {"a.weight": (64, 32), "b.weight": (64, 32)})
    file = base.folder / "model.safetensors"
    with closing(LocalRegistry.open(tmp_path / "registry", create=True)) as registry:
        with pytest.raises(IntegrityError, match=r"model\.safetensors changed while it was being added"):
            registry.add_base("net", base.folder, progress=Renaming(file))
        assert registry.tree().roots == ()
        registry.add_base("net", base.folder)
