"""transformers and PEFT load a path of the tree from a served registry, with nothing of ours installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.demo.main import bundled_base_model
from tests.clients import contract
from tests.clients.conftest import NewMachine
from tests.clients.machines import Step, step
from tests.clients.tree import DEEP, Tree, publish_path
from tests.kit.peers import load_model, train_adapter
from tests.kit.shim import Shim

TEXT = "where is my order"
CLOSE = 1e-5


def away(one: Any, other: Any) -> float:
    """The largest difference of two outputs."""
    return float(np.abs(np.array(one) - np.array(other)).max())


def folders(tree: Tree, base: str, depth: int = 4) -> list[str]:
    return [str(link) for link in tree.links[base][:depth]]


def peft_chain(tree: Tree, base: str, depth: int = 4) -> Step:
    return step("chain", base=str(tree.bases[base].folder), links=folders(tree, base, depth))


@pytest.mark.slow
def test_a_path_loads_as_a_model_and_as_an_adapter(tree: Tree, wire: Shim, machine: NewMachine) -> None:
    """Two programs at a time: merged models by transformers, composed adapters by PEFT."""
    merged, lora = machine("hf"), machine("hf-lora")
    models = merged.start(
        step("model", repo=f"llama/{DEEP}"),
        step("model", repo=f"sharded/{DEEP}"),
        step("model", repo="llama/support"),
        step("tokenizer", repo=f"llama/{DEEP}", text=TEXT),
        step("pipeline", repo=f"llama/{DEEP}", text=TEXT),
        step("pipeline", repo=f"llama/{DEEP}", text=TEXT, task=None),
        step("pipeline", repo=str(tree.bases["llama"].folder), links=folders(tree, "llama"), text=TEXT),
    )
    adapters = lora.start(
        step("adapted", base="llama/_", repo=f"llama/{DEEP}"),
        step("adapted", base=str(tree.bases["llama"].folder), repo="llama/support.french"),
        step("auto_adapted", repo=f"llama/{DEEP}"),
        step("model", repo=f"llama/{DEEP}"),
        peft_chain(tree, "llama"),
        peft_chain(tree, "llama", depth=1),
        peft_chain(tree, "llama", depth=2),
        step("model", repo="llama/_"),
    )
    single, sharded, first, tokens, text, untold, chain_text = models.values()
    put_on, second, auto, direct, chain, chain_of_one, chain_of_two, bare = adapters.values()

    assert away(chain, bare) > 0.01  # the adapters do something
    assert away(chain, chain_of_one) > 0.01
    for found in (single, sharded, put_on["output"], auto, direct):
        assert away(found, chain) <= CLOSE
    assert away(first, chain_of_one) <= CLOSE
    assert away(second["output"], chain_of_two) <= CLOSE
    assert put_on["warned"] == second["warned"] == []
    assert tokens == {"ids": [4, 5, 6, 7], "chat": f"{TEXT} "}
    assert text == untold == chain_text
    assert len(text) > len(TEXT)

    for one, without in (
        (merged, contract.PIPELINE | contract.SHARDED),
        (lora, contract.MODEL | contract.ADAPTER),
    ):
        asked = wire.seen(target=f"^{one.endpoint.removeprefix(wire.url)}/")
        names = contract.keeps_to(asked, one.endpoint, without=without, token=one.token)
        pinned = {"info"} if one.clients.version("transformers") >= (5, 0) else set()  # before, not for a single file
        assert set(names) >= {"resolve"} | pinned


@pytest.mark.long
def test_a_real_encoder(tree: Tree, machine: NewMachine, tmp_path: Path) -> None:
    """MiniLM as the demo takes it, and four adapters that PEFT itself has made."""
    folder = bundled_base_model()
    trained, links = load_model(folder), []
    for number, variant in enumerate(({}, {"use_rslora": True}, {"use_dora": True}, {"use_rslora": True}), 1):
        links.append(tmp_path / str(number))
        trained = train_adapter(links[-1], trained, seed=number, r=4, target_modules=["query", "value"], **variant)
    tree.registry.add_base("minilm", folder)
    publish_path(tree.registry, "minilm", links)
    chain = step("chain", base=str(folder), links=[str(link) for link in links], auto="AutoModel")
    repo, auto = f"minilm/{DEEP}", "AutoModel"
    running = [
        machine("hf").start(step("model", repo=repo, auto=auto), step("tokenizer", repo=repo, text=TEXT), chain),
        machine("hf-lora").start(
            step("adapted", base="minilm/_", repo=repo, auto=auto), step("tokenizer", repo="minilm/_", text=TEXT)
        ),
    ]
    (model, tokens, expected), (adapted, same_tokens) = (program.values() for program in running)
    assert away(model, expected) <= CLOSE
    assert away(adapted["output"], expected) <= CLOSE
    assert len(tokens["ids"]) > 4
    assert tokens == same_tokens


def test_what_leaves_the_endpoint_is_refused_and_found(machine: NewMachine) -> None:
    """The guard itself."""
    one = machine("hf")
    with pytest.raises(AssertionError, match=r"left the endpoint: \['127.0.0.1:9'\]"):
        one.try_steps(step("leave", host="http://127.0.0.1:9/"))
    other = machine("hf")
    isolated = "from urllib.request import urlopen; urlopen('http://example.invalid/', timeout=0.2)"  # no guard in it
    with pytest.raises(AssertionError, match=r"left the endpoint by the proxy: b'GET http://example\.invalid"):
        other.shell(f'python -I -c "{isolated}"', exit_code=1)
