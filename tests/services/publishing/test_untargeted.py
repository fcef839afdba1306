"""A pair that the configuration does not target: refused when it is published, readable where it is there already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import connect
from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from registry.services.publishing import candidates
from tests.conftest import StartService
from tests.kit import Base, plain_base, read_model, write_adapter

SHAPES = {"a.weight": (24, 16), "b.weight": (20, 24)}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", SHAPES)


@pytest.fixture
def tree(tmp_path: Path, base: Base) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", create=True, cache_folder=tmp_path / "cache")
    opened.add_base("net", base.folder)
    yield opened
    opened.close()


def untargeted(folder: Path, base: Base) -> Path:
    """An adapter with pairs of a and b, whose configuration targets a."""
    made = write_adapter(folder, base, ["a", "b"], r=2)
    config = made / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["a"]}))
    return made


def test_publishing_it_is_refused_and_keeps_nothing(tree: LocalRegistry, base: Base, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="pair for 'b', but") as caught:
        tree.publish(untargeted(tmp_path / "adapter", base), "net/one")
    assert caught.value.code == "untargeted_pair"
    assert not [event for event in tree.events() if "publish" in event.action]


@pytest.mark.slow
def test_a_service_refuses_it_with_the_same_words(base: Base, tmp_path: Path, start_service: StartService) -> None:
    far = connect(start_service({"REGISTRY_URL": str(tmp_path / "service")}).url)
    far.add_base("net", base.folder)
    with pytest.raises(InvalidAdapterError, match="pair for 'b', but") as caught:
        far.publish(untargeted(tmp_path / "adapter", base), "net/one")
    far.close()
    assert caught.value.code == "untargeted_pair"


def test_one_that_is_there_is_read_and_copied_with_the_notice(
    tree: LocalRegistry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:  # a program that only gave a notice
        before.setattr(candidates, "refuse_untargeted", lambda *_: None)
        there = tree.publish(untargeted(tmp_path / "adapter", base), "net/one").revision
    assert any("does not target" in notice for notice in there.notices)
    tree.fetch("net/one", tmp_path / "merged", kind="merged")
    merged = read_model(tmp_path / "merged")
    assert merged["b.weight"].data != read_model(base.folder)["b.weight"].data  # it counts, as it always did here
    other = LocalRegistry.open(tmp_path / "other", create=True, cache_folder=tmp_path / "cache")
    tree.copy("net/one", other)
    copied = other.show("net/one").revision
    other.close()
    assert copied is not None
    assert (copied.digest, copied.notices) == (there.digest, there.notices)
    again = tmp_path / "again"
    tree.fetch("net/one", again, kind="published")
    with pytest.raises(InvalidAdapterError) as caught:
        tree.publish(again, "net/two")
    assert caught.value.code == "untargeted_pair"
