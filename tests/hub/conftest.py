"""A registry with the views of it served: two branches, a base with nested files, and tokens of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.app import service_app
from tests.kit import plain_base, write_chain
from tests.kit.bases import Base
from tests.kit.library import Library, running, with_tokens
from tests.kit.shelf import Shelf

WEIGHTS = {
    "hf": "model.safetensors",
    "hf-lora": "adapter_model.safetensors",
    "hf-published": "adapter_model.safetensors",
}


def base_with_files(folder: Path) -> Base:
    """A base model as they lie about: with files in folders, an adapter's config that it should not have, odd names."""
    base = plain_base(folder)
    (folder / "extra" / "deep").mkdir(parents=True)
    (folder / "extra" / "words.txt").write_bytes(b"words")
    (folder / "extra" / "deep" / "notes.md").write_text("notes")
    (folder / "my file+#%20é.txt").write_text("odd")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "adapter_config.json").write_text("{}")
    return base


def fill(root: Path) -> Shelf:
    """``tiny/a`` (three revisions), ``tiny/a/x``, and ``tiny/b``, ``tiny/b/y``, which some tokens do not see."""
    shelf = Shelf(root)
    base = shelf.base("tiny", base_with_files)
    folders = write_chain(root / "chain", base, 5, list(base.modules)[:2])
    (folders[1] / "adapter" / "deep").mkdir(parents=True)
    (folders[1] / "README.md").write_text("# a")
    (folders[1] / "tokenizer.json").write_text("{}")
    publish = shelf.registry.publish
    publish(folders[0], "tiny/a", message="first\nmore of it", tags=["prod"])
    publish(folders[2], "tiny/a")
    publish(folders[1], "tiny/a/x", parent="tiny/a@1", tags=["prod", "v1.0"])
    publish(folders[3], "tiny/b", tags=["secret"])
    publish(folders[4], "tiny/b/y", parent="tiny/b@1")
    return shelf


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    shelf = fill(tmp_path_factory.mktemp("library"))
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def service(library: Library) -> Iterator[str]:
    """The address of a service of the library."""
    with running(service_app(library.registry)) as address:
        yield address


@pytest.fixture(scope="module")
def reader(service: str, library: Library) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, headers=library.headers("reader"), timeout=120) as client:
        yield client


@pytest.fixture
def shelf_service(tmp_path: Path) -> Iterator[tuple[Library, httpx.Client]]:
    library = with_tokens(fill(tmp_path))
    with (
        running(service_app(library.registry)) as address,
        httpx.Client(base_url=address, headers=library.headers("reader"), timeout=120) as client,
    ):
        yield library, client
    library.shelf.close()


def sha(client: httpx.Client, view: str, repo: str, revision: str = "main") -> str:
    """The commit that a name means now."""
    answer = client.get(f"/{view}/api/models/{repo}/revision/{revision}")
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["sha"]
    return found


def assert_missing(answer: httpx.Response, what: str | None, *, status: int = 404, commit: str | None = None) -> str:
    """Every error has this shape: a code of the Hub, one line in a header, and the same sentence in a JSON body."""
    assert answer.status_code == status, answer.text
    assert answer.headers.get("x-error-code") == what
    assert answer.headers.get("x-repo-commit") == commit
    message: str = answer.headers["x-error-message"]
    assert message.strip() == message != ""
    if answer.request.method != "HEAD":
        told: dict[str, Any] = answer.json()
        assert set(told) == {"error"}
        line = " ".join(told["error"].encode("ascii", "replace").decode().split())[:1000]
        assert message == line.replace("\0", "?")
    return message
