"""Cards: published, edited, by two people at once, in process and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.client.remote import RemoteRegistry
from registry.digest import sha256_digest
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.folders.staging import FetchCache
from registry.operations.registry import Registry
from registry.schemas.labels import MAX_CARD
from tests.kit import plain_base, write_adapter
from tests.kit.registries import ON_HTTP
from tests.kit.serving import served
from tests.kit.shelf import Shelf


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """``net/a`` with README.md in its first revision only, and ``net/b`` without any."""
    shelf = Shelf(tmp_path)
    base = shelf.base("net", plain_base)
    for number, path in enumerate(("net/a", "net/a", "net/b")):
        folder = write_adapter(tmp_path / f"adapter{number}", base, list(base.modules)[:1], r=2, seed=number)
        if number == 0:
            (folder / "README.md").write_text("---\nlicense: mit\n---\n# One\n")
        shelf.registry.publish(folder, path)
    if request.param == "embedded":
        yield shelf.registry
    else:
        with served(shelf.registry) as url:
            client = RemoteRegistry(url, None, cache=FetchCache(tmp_path / "cache"))
            yield client
            client.close()
    shelf.close()


def test_what_was_published_is_the_card_until_it_is_edited(registry: Registry) -> None:
    found = registry.card("net/a")
    assert (found.text, found.metadata) == ("---\nlicense: mit\n---\n# One\n", {"license": "mit"})
    assert found.state is not None
    assert (found.state.source, found.state.reference) == ("published", "net/a@1")
    assert found.digest == sha256_digest(found.text.encode())
    assert registry.show("net/a").card == found.state
    assert registry.card("net/a@2").state is None
    edited = registry.set_card("net/a", "# Two\n", expected=found.digest)
    assert edited == registry.card("net/a")
    assert edited.state == registry.show("net/a@1").card
    assert edited.state is not None
    assert (edited.text, edited.state.source) == ("# Two\n", "edited")
    assert registry.card("net/a@1").text == found.text
    event = registry.events(limit=1)[0]
    assert (event.action, event.subject) == ("card", "net/a")
    assert event.detail == {"old": found.digest, "new": edited.digest}
    assert registry.set_card("net/a", "# Two\n") == edited  # the same text is no change
    assert registry.events(limit=1)[0] == event
    assert registry.set_card("net/a", None) == found


def test_nobody_overwrites_what_was_not_read(registry: Registry) -> None:
    empty = registry.card("net/b")
    assert (empty.text, empty.state) == ("", None)
    registry.set_card("net/b", "# Mine", expected=empty.digest)
    with pytest.raises(ConflictError, match="was changed by") as caught:
        registry.set_card("net/b", "# Yours", expected=empty.digest)
    assert caught.value.code == "card_changed"
    assert registry.card("net/b").text == "# Mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("a\0", "NUL"),
        ("x" * (MAX_CARD + 1), "at most"),
        ("---\na: 1\nb: [\n---\n", "in line 3"),
        ("---\na: &x 1\nb: *x\n---\n", "in line 3: an alias"),
        ("---\nlicense: mit\n# text", "no other line ends it"),
    ],
)
def test_what_is_no_card(registry: Registry, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        registry.set_card("net/a", text)
    assert registry.card("net/a").text.endswith("# One\n")


def test_what_has_no_card(registry: Registry) -> None:
    with pytest.raises(UsageError, match="base model"):
        registry.set_card("net", "# a")
    assert registry.card("net").state is None
    for path in ("net/q", "other/a", "net/a@9"):
        with pytest.raises(NotFoundError):
            registry.card(path)
