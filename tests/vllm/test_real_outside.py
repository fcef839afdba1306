"""vLLM as it is, without the plugin, followed from outside while clients ask without a pause.

``VLLM_PYTHON=/venv/bin/python make test-slow``; ``FOLLOW_MOVES=20 pytest -s`` measures. What is right is computed by
transformers, as in `test_real_following`: each answer is what one revision says, token by token, or a refusal. Answers
carry the requested name, so the revision is told by its numbers alone.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import RegistryError
from registry.follow.asked import Engines
from registry.follow.fleet import Fleet
from registry.follow.rounds import Follower
from registry.follow.sinks import Sink
from registry.schemas.followed import Step
from registry.services.local import LocalRegistry
from tests.vllm.real import PYTHON, Vllm, numbered, vllm_of
from tests.vllm.test_real_following import (
    MOVES,
    PROD,
    PROMPTS,
    TOKENS,
    Clients,
    Service,
    registry,
    right,
    room,
    service,
    until,
)

__all__ = ["registry", "right", "room", "service"]  # fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vLLM; a stub was followed instead"),
]


@dataclass
class Outside(Clients):
    """Clients of an engine that does not say which revision answered."""

    def _judged(self, status: int, answer: Any, number: int) -> tuple[int, str]:
        if status != 200:
            return 0, str(answer)
        steps = [numbered(most) for most in answer["choices"][0]["logprobs"]["top_logprobs"]]
        assert len(steps) == TOKENS
        for revision in (1, 2, 5):
            meant = self.right[revision, number]
            if all(
                math.isclose(value, float(row[token]), abs_tol=1e-4)
                for found, row in zip(steps, meant, strict=True)
                for token, value in found.items()
            ):
                return revision, ""
        return -1, f"the answer to prompt {number} is of no revision"

    def refused(self) -> list[Any]:
        return [one for one in self.answers if one.revision == 0]

    def wrong(self) -> list[str]:
        return [one.problem for one in self.answers if one.revision < 0 or (one.revision == 0 and one.status != 404)]


@dataclass
class Following:
    """A follower on a thread, which can be stopped and started."""

    registry: LocalRegistry
    to: str
    names: tuple[str, ...]
    steps: list[Step] = field(default_factory=list)
    problems: list[RegistryError] = field(default_factory=list)

    def made(self) -> Fleet:
        def make(sink: Sink, tell: Any) -> Follower:
            return Follower(self.registry, self.names, sink, tell)

        return Fleet(Engines("vllm", self.to), make, self.steps.append)

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()

        def rounds() -> None:
            fleet = self.made()
            with fleet.opened():
                while not over.wait(0.2):
                    self.problems = fleet.round(0.2)

        thread = threading.Thread(target=rounds)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def told(self, does: str) -> list[str]:
        return [f"{step.name}: {step.problem}" for step in self.steps if step.does == does]


@pytest.fixture(scope="module")
def plain(room: Path, registry: LocalRegistry) -> Iterator[Vllm]:
    del registry  # the base model is there with it
    sizes = ["--max-loras", "2", "--max-cpu-loras", "4", "--max-model-len", "512"]
    with vllm_of(room, None, *sizes) as running:
        yield running


@pytest.fixture
def following(plain: Vllm, registry: LocalRegistry, room: Path) -> Following:
    return Following(registry, f"{plain.url},folder={room / 'adapters'}", (PROD,))


def serves(vllm: Vllm, name: str) -> str:
    """The revision whose folder a name leads to."""
    cards = vllm.ask("/v1/models")[1]["data"]
    return next((Path(one["root"]).name.rpartition("-")[0] for one in cards if one["id"] == name), "")


def test_moves_give_no_wrong_answer_and_few_refusals(
    plain: Vllm, following: Following, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    took, gaps = [], []
    following.registry.tag("llama/support/french@1", "prod")
    with ExitStack() as stack:
        stack.enter_context(following.running())
        until(lambda: serves(plain, PROD) == "llama--support--french@1")
        clients = Outside(plain, right, PROD)
        stack.enter_context(clients)
        until(clients.first, 1, 0.0)
        for move in range(MOVES):
            to = 2 - move % 2
            at = time.monotonic()
            following.registry.tag(f"llama/support/french@{to}", "prod")
            until(clients.first, to, at)
            took.append(clients.first(to, at) - at)
            missed = [one for one in clients.refused() if one.begun > at]
            gaps.append(max((one.ended for one in missed), default=0) - min((one.begun for one in missed), default=0))
            time.sleep(0.3)
    assert clients.wrong() == []
    assert [one for one in following.steps if one.does == "failed"] == []
    assert [one["id"] for one in plain.ask("/v1/models")[1]["data"] if one["parent"]] == [PROD]
    answered = [one for one in clients.answers if one.revision > 0]
    print(
        f"\n{MOVES} moves: {len(answered)} right answers, {len(clients.refused())} requests got 404, none was wrong; "
        f"a name was away for {statistics.median(gaps):.2f} s (p50), {max(gaps):.2f} s (most); first answer of the new "
        f"revision after {statistics.median(took):.2f} s (p50), {max(took):.2f} s (most)"
    )


def test_a_refused_revision_leaves_the_old_one_without_a_single_refusal(
    plain: Vllm, following: Following, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    following.registry.tag("llama/support/french@1", "prod")
    with following.running():
        until(lambda: serves(plain, PROD) == "llama--support--french@1")
        with Outside(plain, right, PROD) as clients:
            until(clients.first, 1, 0.0)
            following.registry.tag("llama/support/french@3", "prod")  # its rank is above vLLM's limit
            until(lambda: following.told("failed"))
            assert "rank" in following.told("failed")[0]
            until(clients.have, len(clients.answers) + 30)
        assert {one.revision for one in clients.answers} == {1}
        following.registry.tag("llama/support/french@2", "prod")
        until(lambda: serves(plain, PROD) == "llama--support--french@2")


def test_requests_that_run_for_long_end_on_their_revision(
    plain: Vllm, following: Following, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    """A name stays away until they have ended, and they say what their revision would.

    A third adapter is asked for meanwhile: if both revisions had met under one name, this would end the engine.
    """
    following.registry.tag("llama/support/french@1", "prod")
    said: list[Any] = []
    prompt = list(range(20))
    with following.running():
        until(lambda: serves(plain, PROD) == "llama--support--french@1")
        alone = plain.complete(PROD, prompt, 400)[1]["choices"][0]["logprobs"]["tokens"]
        long = threading.Thread(target=lambda: said.append(plain.complete(PROD, prompt, 400)))
        long.start()
        time.sleep(0.3)
        following.registry.tag("llama/support/french@2", "prod")
        third = following.registry.fetch("llama/support/french@5").folder
        assert plain.ask("/v1/load_lora_adapter", {"lora_name": "third", "lora_path": third})[0] == 200
        while serves(plain, PROD) != "llama--support--french@2" or long.is_alive():
            assert plain.complete("third", PROMPTS[0], 2)[0] == 200
            plain.complete(PROD, PROMPTS[1], 2)
        long.join()
    assert plain.ask("/v1/unload_lora_adapter", {"lora_name": "third"})[0] == 200
    assert said[0][0] == 200
    assert said[0][1]["choices"][0]["logprobs"]["tokens"] == alone


def test_a_name_that_was_unloaded_comes_back_and_a_retraction_takes_it(plain: Vllm, following: Following) -> None:
    doomed = "llama/support/french@doomed"
    following.names = (doomed, PROD)
    with following.running():
        until(lambda: serves(plain, doomed))
        assert plain.ask("/v1/unload_lora_adapter", {"lora_name": doomed})[0] == 200  # as a restart does with all
        until(lambda: serves(plain, doomed))
        following.registry.retract("llama/support/french@5", reason="Wrong data.")
        until(lambda: not serves(plain, doomed))
        assert plain.complete(doomed)[0] == 404
    assert serves(plain, PROD)
    assert plain.process.poll() is None


def test_a_plugin_that_does_not_follow_is_moved_to_what_is_warm(
    room: Path, service: Service, registry: LocalRegistry, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    """It is known by its answer; nothing is loaded into it, and no answer is wrong."""
    registry.tag("llama/support/french@1", "prod")
    sizes = ["--max-loras", "2", "--max-cpu-loras", "4", "--max-model-len", "512"]
    with vllm_of(room, service.url, *sizes, REGISTRY_VLLM_FOLLOW="0") as vllm, ExitStack() as stack:
        following = Following(registry, f"{vllm.url},folder={room / 'not-used'}", (PROD,))
        stack.enter_context(following.running())
        until(lambda: following.told("switched"))
        clients = stack.enter_context(Clients(vllm, right, PROD))
        until(clients.first, 1, 0.0)
        at = time.monotonic()
        registry.tag("llama/support/french@2", "prod")
        until(clients.first, 2, at)
        until(lambda: len(following.told("switched")) == 2)
        until(clients.have, len(clients.answers) + 30)
    refused = [one for one in clients.answers if one.status == 404]
    assert [one.problem for one in clients.answers if one.problem and one.status != 404] == []
    assert following.told("failed") == []
    assert "POST /v1/load_lora_adapter" not in vllm.said()
    print(f"\nwith the plugin: {len(clients.answers)} requests, {len(refused)} got 404 at the unload")
