"""Which base model an engine serves: said, or known from where its model came from, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.settings import read_settings
from registry.vllm.served import Served, served_base
from tests.vllm.conftest import Place

HUB = "/home/x/.cache/huggingface/hub"
SNAPSHOT = f"{HUB}/models--net--_/snapshots/{'0' * 40}"
MERGED = f"{HUB}/models--net--support.french/snapshots/{'0' * 40}"
URL = "http://registry.team:8321"


def served(model: str | Path, **environ: str) -> Served:
    return served_base(str(model), read_settings({k: v for k, v in environ.items() if k != "HF_ENDPOINT"}), environ)


@pytest.mark.parametrize("model", ["net/_", SNAPSHOT])
def test_a_repo_of_the_hub_view_says_it(model: str) -> None:
    assert served(model) == Served("net")
    assert served(model, REGISTRY_VLLM_BASE="net") == Served("net")


@pytest.mark.parametrize(
    "model", ["meta-llama/Llama-3.2-1B", "net", "/models/net", "./net", "Net/_", "net/Net-1B", "net/a/b", "other/net"]
)
def test_other_names_say_nothing(model: str) -> None:
    assert served(model) == Served(None)
    assert served(model, REGISTRY_VLLM_BASE="net") == Served("net")


def test_a_fetched_base_says_it(tree: Place) -> None:
    folder = tree.root / "fetched"
    tree.registry.fetch("net", folder, kind="merged")
    assert served(folder) == Served("net")


def test_a_setting_that_contradicts_gives_nothing_out() -> None:
    found = served("net/_", REGISTRY_VLLM_BASE="other")
    assert found.base == "other"
    assert found.wrong is not None
    assert "REGISTRY_VLLM_BASE" in found.wrong


def refused(found: Served, *words: str) -> None:
    assert found.base == "net"
    assert found.wrong is not None
    for word in words:
        assert word in found.wrong


def test_a_fetched_merged_path_gets_no_adapters_from_the_base_up(tree: Place) -> None:
    """They would add the deltas that are in the weights already."""
    folder = tree.root / "fetched"
    tree.registry.fetch("net/support", folder, kind="merged")
    for environ in ({}, {"REGISTRY_VLLM_BASE": "net"}):
        refused(served(folder, **environ), "net/support@1 merged", "net/_")


@pytest.mark.parametrize(
    "environ",
    [
        {"REGISTRY_URL": URL},
        {"REGISTRY_URL": "http://Registry.team:8321/"},
        {"REGISTRY_URL": "HTTP://registry.team:8321"},
        {"REGISTRY_URL": "https://other.team"},
        {"REGISTRY_URL": "/data/registry"},
        {"REGISTRY_DATABASE_URL": "postgresql://db/x", "REGISTRY_STORE_URL": "s3://bucket"},
        {},  # what `registry login` chose
    ],
)
@pytest.mark.parametrize("hub", [f"{URL}/hf", ""])
@pytest.mark.parametrize("model", ["net/support.french", MERGED])
def test_a_merged_path_of_the_base_that_is_said_gets_none_whatever_the_addresses_say(
    model: str, hub: str, environ: dict[str, str]
) -> None:
    refused(served(model, REGISTRY_VLLM_BASE="net", HF_ENDPOINT=hub, **environ), "net/support/french merged", "net/_")


@pytest.mark.parametrize("url", [URL, f"{URL}/", "http://Registry.team:8321", "HTTP://registry.team:8321/"])
@pytest.mark.parametrize("model", ["net/support.french", MERGED])
def test_a_merged_path_of_a_known_registry_gets_none(model: str, url: str) -> None:
    refused(served(model, REGISTRY_URL=url, HF_ENDPOINT=f"{URL}/hf"), "net/support/french merged")
    found = served(model, REGISTRY_URL=url, HF_ENDPOINT=f"{URL}/hf", REGISTRY_VLLM_BASE="other")
    assert found.base == "other"
    assert found.wrong is not None
    assert served(model, REGISTRY_URL=url, HF_ENDPOINT="https://huggingface.co") == Served(None)


def test_a_link_to_a_snapshot_is_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in ("_", "support.french"):
        snapshot = tmp_path / f"models--net--{repo}" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (tmp_path / repo).symlink_to(snapshot)
    assert served(tmp_path / "_") == Served("net")
    refused(served(tmp_path / "support.french", REGISTRY_VLLM_BASE="net"), "net/support/french merged")
    monkeypatch.chdir(tmp_path.parent)  # a path of two parts looks like the id of a repo
    assert served(f"{tmp_path.name}/_") == Served("net")
    refused(served(f"{tmp_path.name}/support.french/", REGISTRY_VLLM_BASE="net"), "net/support/french merged")


def test_a_receipt_that_can_not_be_read_gives_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "registry-receipt.json").write_text("{}")
    refused(served(tmp_path, REGISTRY_VLLM_BASE="net"), str(tmp_path), "not a receipt")
    found = served(tmp_path)
    assert found.base is None
    assert found.wrong is not None


def test_a_folder_that_can_not_be_looked_into_gives_nothing_out() -> None:
    name = "/" + "x" * 300
    refused(served(name, REGISTRY_VLLM_BASE="net"), name, "too long")
