"""vLLM itself follows the registry while clients ask without a pause: ``VLLM_PYTHON=/venv/bin/python make test-slow``.

What is right is computed by transformers on the merged models: each answer has to be what one revision says, token by
token, so that a mixture of two, or a block of the prefix cache that another revision made, shows.
``FOLLOW_MOVES=20 pytest -s`` measures how long moves take.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from registry.app import service_app
from registry.http.limits import Limits
from registry.http.server import Server, listen
from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.peers import load_model
from tests.kit.recipes import Recipe, write_recipe
from tests.vllm.real import PYTHON, Vllm, numbered, vllm_of

MOVES: Final = int(os.environ.get("FOLLOW_MOVES", "4"))
CLIENTS: Final = 8
TOKENS: Final = 6
REVISIONS: Final = [("v_proj", 2), ("up_proj", 3), ("k_proj", 9), ("k_proj", 30), ("v_proj", 2)]  # a module, the rank
PATIENCE: Final = 120.0  # seconds; how long it takes is measured, not tested
PROD: Final = "llama/support/french@prod"
PROMPTS: Final = [
    torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (20, 33, 64, 110, 150, 230, 310, 400)
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vLLM; the stub engine was tried instead"),
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("following")


@pytest.fixture(scope="module")
def registry(room: Path) -> Iterator[LocalRegistry]:
    """Revisions 1 and 2 that vLLM takes, 3 that only vLLM refuses, 4 that our rules refuse, 5 to be retracted."""
    base = llama_base(room / "base", hidden=128, heads=4, mlp=192, vocab=256, scale=0.05)
    config = base.folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 512}))
    with closing(LocalRegistry.open(room / "registry", cache_folder=room / "own-cache")) as opened:
        opened.add_base("llama", base.folder)
        opened.publish(write_recipe(room / "parent", base, Recipe(("q_proj", "k_proj"), r=3, seed=1)), "llama/support")
        for number, (module, rank) in enumerate(REVISIONS):
            recipe = Recipe(("q_proj", module), r=rank, rslora=True, seed=2 + number)
            opened.publish(write_recipe(room / str(number), base, recipe), "llama/support/french")
        opened.tag("llama/support/french@1", "prod")
        opened.tag("llama/support/french@5", "doomed")
        yield opened


class Service:
    """The registry over HTTP at one address, which can be away for a time."""

    def __init__(self, registry: LocalRegistry) -> None:
        self._registry = registry
        self._up = ExitStack()
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        listener.close()
        self.url = f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        listener = listen("127.0.0.1", self.port)
        limits = Limits()
        server = Server(service_app(self._registry, anonymous="open", limits=limits), limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        self._up.callback(listener.close)
        self._up.callback(thread.join)
        self._up.callback(server.stop)
        assert server.ready.wait(120)

    def end(self) -> None:
        self._up.close()


@pytest.fixture(scope="module")
def service(registry: LocalRegistry) -> Iterator[Service]:
    service = Service(registry)
    service.begin()
    yield service
    service.end()


@pytest.fixture(scope="module")
def vllm(room: Path, service: Service) -> Iterator[Vllm]:
    """Its limit is rank 8, and the plugin takes it for 16: what has rank 12 is refused by vLLM alone."""
    sizes = ["--max-loras", "2", "--max-cpu-loras", "4", "--max-model-len", "512"]
    with vllm_of(room, service.url, *sizes, REGISTRY_VLLM_MAX_RANK="16") as running:
        yield running


Steps = list[dict[int, float]]


@pytest.fixture(scope="module")
def right(registry: LocalRegistry) -> dict[tuple[int, int], torch.Tensor]:
    """By revision and number of the prompt: what transformers says after each token that it would say itself."""
    said = {}
    for revision in (1, 2, 5):
        model = load_model(Path(registry.fetch(f"llama/support/french@{revision}", kind="merged").folder))
        for number, prompt in enumerate(PROMPTS):
            with torch.no_grad():
                tokens = torch.tensor([prompt])
                for _ in range(TOKENS):
                    tokens = torch.cat([tokens, model(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
                logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1]
            said[revision, number] = torch.log_softmax(logits.double(), dim=-1)
    return said


@dataclass
class Answer:
    """What a client got."""

    begun: float
    ended: float
    status: int
    revision: int  # 0: none
    problem: str = ""


@dataclass
class Clients:
    """Threads that ask for a name without a pause, and compare each answer."""

    vllm: Vllm
    right: dict[tuple[int, int], torch.Tensor]
    name: str
    answers: list[Answer] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        for number in itertools.cycle([*range(client, len(PROMPTS)), *range(client)]):
            if self._over.is_set():
                return
            begun = time.monotonic()
            status, answer = self.vllm.complete(self.name, PROMPTS[number], TOKENS)
            revision, problem = self._judged(status, answer, number)
            self.answers.append(Answer(begun, time.monotonic(), status, revision, problem))

    def _judged(self, status: int, answer: Any, number: int) -> tuple[int, str]:
        """Which revision answered, by its name and by its numbers, and what is wrong."""
        if status != 200:
            return 0, str(answer)
        revision = int(answer["model"].partition("#")[2].partition("-")[0])
        steps = [numbered(most) for most in answer["choices"][0]["logprobs"]["top_logprobs"]]
        for at, (found, meant) in enumerate(zip(steps, self.right[revision, number], strict=True)):
            if not all(math.isclose(value, float(meant[token]), abs_tol=1e-4) for token, value in found.items()):
                return revision, f"token {at} of prompt {number} is not what revision {revision} says"
        return revision, ""

    def wrong(self) -> list[str]:
        return [one.problem for one in self.answers if one.problem]

    def have(self, count: int) -> bool:
        return len(self.answers) >= count

    def first(self, revision: int, after: float) -> float:
        """When the first request was sent, after ``after``, that this revision answered."""
        begun = [one.ended for one in list(self.answers) if one.begun >= after and one.revision == revision]
        return min(begun, default=0.0)


def until(what: Callable[..., object], *given: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what(*given):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def said(vllm: Vllm, what: str) -> list[str]:
    """Lines of its log."""
    return [line for line in vllm.said().splitlines() if what in line]


def test_the_revisions_can_be_told_apart(right: dict[tuple[int, int], torch.Tensor]) -> None:
    for number in range(len(PROMPTS)):
        assert float((right[1, number] - right[2, number]).abs().max()) > 0.01


def test_moves_reach_clients_that_never_pause_and_harm_none(
    vllm: Vllm, registry: LocalRegistry, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    took = []
    moves: list[tuple[float, int]] = []
    with Clients(vllm, right, PROD) as clients:
        until(clients.first, 1, 0.0)
        for move in range(MOVES):
            to = 2 - move % 2
            at = time.monotonic()
            registry.tag(f"llama/support/french@{to}", "prod")
            moves.append((at, to))
            until(clients.first, to, at)
            took.append(clients.first(to, at) - at)
            time.sleep(0.3)
    assert clients.wrong() == []
    assert_in_order(clients.answers, moves)
    took.sort()
    tail = took[min(len(took) - 1, math.ceil(0.95 * len(took)) - 1)]
    print(
        f"\n{MOVES} moves, {len(clients.answers)} answers: first answer of the new revision after "
        f"{statistics.median(took):.2f} s (p50), {tail:.2f} s (p95), {took[-1]:.2f} s (most)"
    )


def assert_in_order(answers: list[Answer], moves: list[tuple[float, int]]) -> None:
    """No answer by anything but what the name meant before or after the last move, and none goes back to the old."""
    for (at, to), (end, _) in itertools.pairwise([*moves, (math.inf, 0)]):
        before = 3 - to
        seen = min(one.ended for one in answers if one.revision == to and at <= one.begun)
        for one in answers:
            if one.ended < at and one.begun < at:
                continue
            if seen <= one.begun < end and one.ended < end:
                assert one.revision == to, f"revision {before} again, {one.begun - seen:.2f} s after {to} answered"


def test_a_revision_that_is_refused_leaves_the_old_one_and_is_said_once(
    vllm: Vllm, registry: LocalRegistry, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    registry.tag("llama/support/french@1", "prod")
    with Clients(vllm, right, PROD) as clients:
        until(clients.first, 1, 0.0)
        for refused, word in ((3, "rank"), (4, "--max-lora-rank")):  # by vLLM alone, and by our rules
            registry.tag(f"llama/support/french@{refused}", "prod")
            until(said, vllm, f"french@{refused} can't be loaded")
            (line,) = said(vllm, f"french@{refused} can't be loaded")
            assert "ERROR" in line
            assert word in line
            until(clients.have, len(clients.answers) + 3 * CLIENTS)
        assert {one.revision for one in clients.answers} == {1}
        at = time.monotonic()
        registry.tag("llama/support/french@2", "prod")
        until(clients.first, 2, at)
    assert clients.wrong() == []


def test_a_service_that_is_away_changes_nothing_and_what_moved_meanwhile_comes(
    vllm: Vllm, registry: LocalRegistry, service: Service, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    registry.tag("llama/support/french@2", "prod")
    with Clients(vllm, right, PROD) as clients:
        until(clients.first, 2, 0.0)
        at = time.monotonic()
        service.end()
        registry.tag("llama/support/french@1", "prod")
        time.sleep(5)
        assert {one.revision for one in clients.answers if one.begun > at} == {2}
        service.begin()
        until(clients.first, 1, at)
    assert clients.wrong() == []


def test_a_retraction_ends_its_name_and_no_other(
    vllm: Vllm, registry: LocalRegistry, right: dict[tuple[int, int], torch.Tensor]
) -> None:
    doomed = "llama/support/french@doomed"
    assert vllm.complete(doomed)[0] == 200
    with Clients(vllm, right, PROD) as clients:
        registry.retract("llama/support/french@5", reason="Wrong data.")
        until(lambda: vllm.complete(doomed)[0] == 404)
        status, answer = vllm.complete(doomed)
        assert (status, "Wrong data." in answer["error"]["message"]) == (404, True)
    assert clients.wrong() == []
    assert vllm.process.poll() is None
