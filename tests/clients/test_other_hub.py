"""What a script loads by its name on another Hub: a base model of the registry, and what only the other Hub has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registry.app import service_app
from tests.clients.machines import ClientSet, Machine, step
from tests.clients.tree import Tree
from tests.kit.library import running
from tests.kit.other_hub import ElsewhereStore, OtherHub

pytestmark = pytest.mark.slow
LINES = b'{"text": "where is my order"}\n'


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "adapter_config.json"
    }


@pytest.fixture
def other() -> Iterator[OtherHub]:
    with ElsewhereStore() as store, OtherHub(store) as hub:
        yield hub


@pytest.fixture
def loading(tree: Tree, clients: ClientSet, other: OtherHub, tmp_path: Path) -> Iterator[Machine]:
    """A machine that reaches the registry and the other Hub's store, and not the other Hub."""
    with ExitStack() as until:
        address = until.enter_context(running(service_app(tree.registry, upstream=other.url)))
        port = urlsplit(other.store.url).port
        beside = (f"localhost:{port}", f"127.0.0.1:{port}")
        made = Machine(clients, tmp_path / "machine", f"{address}/hf", tree.token()[1], beside=beside)
        until.callback(made.leave)
        yield made


def test_everything_of_a_training_is_loaded_from_one_endpoint(tree: Tree, loading: Machine, other: OtherHub) -> None:
    tree.registry.also_known_as("llama", "Acme/Llama-Small")
    other.add("models/Else/Sharded", files_of(tree.bases["sharded"].folder))
    other.add("datasets/Else/orders", {"README.md": b"# Orders", "data/train.jsonl": LINES})
    hello = {"text": "where is my order"}
    own, named, theirs, words, other_words, lines = loading.run(
        step("model", repo="llama/_"),
        step("model", repo="Acme/Llama-Small"),
        step("model", repo="Else/Sharded"),
        step("tokenizer", repo="Acme/Llama-Small", **hello),
        step("tokenizer", repo="Else/Sharded", **hello),
        step("file", repo="Else/orders", name="data/train.jsonl", repo_type="dataset"),
    )
    assert own == named == theirs  # the same weights, in one file and in three
    assert words == other_words
    assert lines["sha256"] == hashlib.sha256(LINES).hexdigest()
    assert other.store.headers  # the shards, which the machine fetched there itself
    assert all("llama" not in line.lower() for line in other.seen)
    secrets = [headers for hub in (other, other.store) for headers in hub.headers if str(loading.token) in str(headers)]
    assert secrets == []
