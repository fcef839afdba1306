"""The recipes of docs/pool.md run as they stand, and do what they say."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import registry
from registry.pool import AdapterPool
from registry.services.local import LocalRegistry
from tests.kit.peers import load_model
from tests.pool.page import blocks, encoder_tree, llama_tree, run

METRIC = "### A metric of your own over every path"
HARNESS = "### lm-evaluation-harness over every path"
SERVICE = "### A service with 200 heads"
ROLLOUTS = "### Weights for rollouts in reinforcement learning"
NOT_HERE = "not installed: `make test-long ONLY=recipes` has it in an environment of its own"


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRegistry]:
    monkeypatch.chdir(tmp_path)
    with closing(llama_tree(tmp_path)) as team:
        monkeypatch.setattr(registry, "connect", lambda: team)
        yield team


def test_a_metric_over_every_path(llama: LocalRegistry, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    (code,) = blocks(METRIC)
    run(code, names)
    found = {one.reference: one.metrics["eval_loss"] for one in llama.search(path="llama").revisions}
    assert found.keys() == {"llama/support@2", "llama/support/french@1", "llama/support/code@1"}
    assert len(set(found.values())) == 3
    assert names["best"].reference == min(found, key=lambda reference: found[reference])
    for reference, loss in found.items():
        with AdapterPool(names["model"], llama) as pool, pool.merged(reference):
            assert names["loss"]() == pytest.approx(loss, rel=0.01)  # bf16


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
def test_lm_evaluation_harness_over_every_path(llama: LocalRegistry, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason=f"lm-eval is {NOT_HERE}")
    lines = [{"text": "where is my order", "answer": 0}, {"text": "cancel the booking", "answer": 1}] * 4
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names: dict[str, Any] = {}
    run(blocks(METRIC)[0], names)
    run(blocks(HARNESS)[0], names)
    for revision in llama.search(path="llama").revisions:
        with AdapterPool(names["model"], llama) as pool, pool.merged(revision.reference):
            assert revision.metrics["tickets.acc"] == pytest.approx(_accuracy(names, lines))


def _accuracy(names: dict[str, Any], lines: list[dict[str, Any]]) -> float:
    """Of how many the right one of yes and no is the likelier next word."""
    yes, no = (names["tokenizer"](word)["input_ids"][0] for word in ("yes", "no"))
    right = 0
    for line in lines:
        ids = names["tokenizer"](line["text"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = names["model"](ids).logits[0, -1]
        right += int(logits[no] > logits[yes]) == line["answer"]
    return right / len(lines)


@pytest.mark.parametrize("heads", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_service_with_many_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: int) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [f"minilm/head-{number}" for number in range(heads)]
    with closing(encoder_tree(tmp_path, paths)) as team:
        team.retract(f"{paths[1]}@1", reason="a test")
        names: dict[str, Any] = {}
        run(blocks(SERVICE)[0], names)
        monkeypatch.setattr(registry, "connect", lambda: LocalRegistry.open(tmp_path / "registry"))
        sizes: list[int] = []
        names["model"].register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        texts = ["where is my order", "cancel the booking please", "thanks"]
        asked = [{"path": f"{path}@prod", "text": text} for text in texts for path in paths]
        answers = asyncio.run(_ask(names["app"], [*asked, {"path": "minilm/nothing", "text": "hello"}]))
        assert sum(sizes) < 3 * len(answers)  # also where a batch was tried again row by row
        codes = Counter(answer.json()["detail"]["code"] for answer in answers if answer.status_code == 404)
        assert codes == {"retracted": 3, "not_found": 1}
        answered = {
            (question["path"], question["text"]): answer.json()
            for question, answer in zip(asked, answers, strict=False)
            if answer.status_code == 200
        }
        assert len(answered) == 3 * (heads - 1)
        with AdapterPool(names["model"], team) as pool:
            for path in [paths[0], *paths[2:5]]:
                with pool.merged(path) as reference, torch.no_grad():
                    for text in texts:
                        inputs = names["tokenizer"](text, return_tensors="pt")
                        right = names["model"](**inputs).logits.softmax(-1)[0]
                        found = answered[f"{path}@prod", text]
                        assert found["reference"] == reference
                        torch.testing.assert_close(torch.tensor(found["probabilities"]), right, rtol=1e-4, atol=1e-6)


async def _ask(app: Any, questions: list[dict[str, str]]) -> list[httpx.Response]:
    """All at once, within the app's lifespan."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        return list(await asyncio.gather(*(client.post("/classify", json=question) for question in questions)))


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' about each other
def test_weights_for_rollouts(llama: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason=f"TRL is {NOT_HERE}")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    names: dict[str, Any] = {}
    torch.manual_seed(1)
    run(blocks(ROLLOUTS)[0], names)
    steps = llama.log("llama/support/policy").revisions
    assert {one.parent for one in steps} == {"llama/support@2"}
    assert {one.message for one in steps} == {"step 0", "step 1", "step 2"}
    assert len({one.digest for one in steps}) == 3
    assert steps[0].tags == ("prod",)
    _check_log_probabilities(llama, names, tmp_path / "merged")


def _check_log_probabilities(team: LocalRegistry, names: dict[str, Any], folder: Path) -> None:
    """Of a rollout: those of the merged model that is fetched, of unpadded sequences, up to the first end."""
    prompts = ["where is my order", "cancel booking"] * 8
    with AdapterPool(names["model"], team) as pool:
        names["pool"] = pool
        found = names["rollout"](prompts, names["trainer"])
    team.fetch("llama/support/policy@prod", folder, kind="merged")
    model = load_model(folder)  # in float32
    for prompt, completion, logprobs in zip(*(found[name] for name in found), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        right = logits.log_softmax(-1).gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(logprobs), right, rtol=0.02, atol=0.02)
    ends = [one.index(2) + 1 for one in found["completion_ids"] if 2 in one]
    assert ends == [len(one) for one in found["completion_ids"] if 2 in one]
    assert ends  # at a temperature of 1, some of 16 do
