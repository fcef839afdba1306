"""Which base model an engine serves: said, or known from where its model came from, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.settings import read_settings
from registry.vllm.served import Served, served_base
from tests.vllm.conftest import Place

SNAPSHOT = "/home/x/.cache/huggingface/hub/models--net--_/snapshots/" + "0" * 40
URL = "http://registry:8321"


def served(model: str | Path, **environ: str) -> Served:
    return served_base(str(model), read_settings({k: v for k, v in environ.items() if k != "HF_ENDPOINT"}), environ)


@pytest.mark.parametrize("model", ["net/_", SNAPSHOT])
def test_a_repo_of_the_hub_view_says_it(model: str) -> None:
    assert served(model) == Served("net")
    assert served(model, REGISTRY_VLLM_BASE="net") == Served("net")


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "net", "/models/net", "./net", "Net/_", "net/support"])
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


def test_a_merged_path_gets_no_adapters_from_the_base_up(tree: Place) -> None:
    """They would add the deltas that are in the weights already."""
    folder = tree.root / "fetched"
    tree.registry.fetch("net/support", folder, kind="merged")
    for found in (
        served(folder, REGISTRY_VLLM_BASE="net"),
        served("net/support.french", REGISTRY_URL=URL, HF_ENDPOINT=f"{URL}/hf", REGISTRY_VLLM_BASE="net"),
    ):
        assert found.base == "net"
        assert found.wrong is not None
        assert "net/support" in found.wrong
        assert "merged" in found.wrong
