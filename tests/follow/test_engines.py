"""Following into engines: names are switched so that no request meets two revisions, whatever the engine says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import InvalidAdapterError, RegistryError, UnavailableError, UsageError
from registry.follow import asked, endpoint, plugin, vllm
from registry.follow.asked import Engines, sink_of
from registry.follow.fleet import Fleet
from registry.follow.rounds import Follower
from registry.follow.sinks import Sink
from registry.schemas.followed import Step
from registry.services.local import LocalRegistry
from tests.follow.engine_stubs import Stub, StubSglang, StubVllm, StubWithPlugin, weights_in
from tests.kit import plain_base, write_adapter

PROD = "net/one@prod"
KINDS = {"vllm": StubVllm, "sglang": StubSglang}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """``net/one`` with two revisions, ``net/two`` with one."""
    room = tmp_path_factory.mktemp("engines")
    base = plain_base(room / "base", {"a.weight": (24, 16)})
    opened = LocalRegistry.open(room / "registry", cache_folder=room / "cache")
    opened.add_base("net", base.folder)
    for seed, path in enumerate(("net/one", "net/one", "net/two")):
        opened.publish(write_adapter(room / str(seed), base, ["a"], r=2, seed=seed), path, parent="net")
    opened.tag("net/two@1", "prod")
    yield opened
    opened.close()


@pytest.fixture
def registry(made: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    made.tag("net/one@1", "prod")
    monkeypatch.setattr(vllm, "_LOOK", 0.005)
    monkeypatch.setattr(plugin, "_LOOK", 0.005)
    monkeypatch.setattr(plugin, "_PATIENCE", 0.01)
    return made


@dataclass
class Following:
    """A fleet behind one stub, or behind the addresses that a test names."""

    registry: LocalRegistry
    kind: str
    url: str
    room: Path
    names: tuple[str, ...] = (PROD,)
    dry_run: bool = False
    clock: float = 1e9
    steps: list[Step] = field(default_factory=list)
    problems: list[RegistryError] = field(default_factory=list)

    def __post_init__(self) -> None:
        def make(sink: Sink, tell: Callable[[Step], None]) -> Follower:
            return Follower(self.registry, self.names, sink, tell, now=lambda: self.clock, dry_run=self.dry_run)

        place = Engines(self.kind, f"{self.url},folder={self.room}")
        self.fleet = Fleet(
            place, make, self.steps.append, now=lambda: self.clock, clock=lambda: self.clock, dry_run=self.dry_run
        )

    def round(self) -> list[str]:
        self.steps.clear()
        self.problems = self.fleet.round()
        self.clock += 400  # whatever failed is due again
        return [f"{step.does} {step.name or step.reference or step.code}" for step in self.steps]


@pytest.fixture(params=["vllm", "sglang"])
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    made: Stub = KINDS[request.param]()
    with made.running():
        yield made
    assert made.faults == []


@pytest.fixture
def following(registry: LocalRegistry, stub: Stub, tmp_path: Path) -> Iterator[Following]:
    kind = "vllm" if isinstance(stub, StubVllm) else "sglang"
    made = Following(registry, kind, stub.url, tmp_path / "served")
    with made.fleet.opened():
        yield made


def weights(registry: LocalRegistry, number: int) -> str:
    """Of a revision, as it is fetched."""
    return weights_in(registry.fetch(f"net/one@{number}").folder)


def test_a_moved_tag_is_switched_after_the_engine_took_the_new_one(
    following: Following, stub: Stub, registry: LocalRegistry
) -> None:
    assert following.round() == [f"brought {PROD}", f"switched {PROD}"]
    assert following.steps[0].engine == stub.url.removeprefix("http://")
    assert stub.complete(PROD) == (200, {"model": PROD, "weights": weights(registry, 1)})
    assert following.round() == []
    for number in (2, 1):
        stub.calls.clear()
        registry.tag(f"net/one@{number}", "prod")
        assert following.round()[-1] == f"switched {PROD}"
        own, new = f"net/one@{number}", f"net--one@{number}"
        assert stub.calls == [f"load {own} {new}", f"unload {PROD}", f"load {PROD} {new}", f"unload {own}"]
        assert stub.complete(PROD)[1]["weights"] == weights(registry, number)
        assert stub.complete(own)[0] in (400, 404)
    assert following.round() == []


def test_requests_that_run_end_on_what_they_began_with(
    following: Following, stub: Stub, registry: LocalRegistry
) -> None:
    """The name is nobody's until they have ended; nobody gets a mixture, or the old one after the new one."""
    following.round()
    registry.tag("net/one@2", "prod")
    stub.hold = True
    answers: list[tuple[int, Any]] = []
    client = threading.Thread(target=lambda: answers.append(stub.complete(PROD)))
    client.start()
    until(lambda: getattr(stub, "running_now", None) or getattr(stub, "_uses", {}).get(PROD))
    mover = threading.Thread(target=following.round)
    mover.start()
    until(lambda: f"unload {PROD}" in stub.calls)
    time.sleep(0.05)
    assert stub.calls[-1] == f"unload {PROD}"
    stub.hold = False
    mover.join()
    client.join()
    assert answers == [(200, {"model": PROD, "weights": weights(registry, 1)})]
    assert stub.complete(PROD)[1]["weights"] == weights(registry, 2)


def until(what: Callable[[], object]) -> None:
    while not what():
        time.sleep(0.002)


def test_what_the_engine_refuses_changes_nothing_that_serves(
    following: Following, stub: Stub, registry: LocalRegistry
) -> None:
    following.round()
    stub.refused["net--one@2"] = "LoRA rank 16 is greater than max_lora_rank 8."
    registry.tag("net/one@2", "prod")
    stub.calls.clear()
    assert following.round() == [f"brought {PROD}", f"failed {PROD}"]
    assert "LoRA rank 16 is greater than max_lora_rank 8." in str(following.problems[0])
    assert (type(following.problems[0]), following.problems[0].code) == (InvalidAdapterError, "engine_limits")
    assert stub.calls == ["load net/one@2 net--one@2"]
    assert stub.complete(PROD)[1]["weights"] == weights(registry, 1)
    stub.refused.clear()
    assert following.round() == [f"switched {PROD}"]


def test_a_restarted_engine_gets_its_names_again_and_a_dead_one_is_told_once(
    following: Following, stub: Stub, registry: LocalRegistry
) -> None:
    following.round()
    stub.restart()
    assert following.round() == [f"switched {PROD}"]
    assert stub.complete(PROD)[1]["weights"] == weights(registry, 1)
    following.fleet.place.found = lambda: ["127.0.0.1:1"]  # type: ignore[method-assign]
    assert following.round() == ["failed unavailable"]
    assert "127.0.0.1:1 does not answer" in str(following.problems[0])
    assert following.round() == []
    assert isinstance(following.problems[0], UnavailableError)


def test_what_is_retracted_goes_and_stays_away_whoever_asks_for_it(
    following: Following, stub: Stub, registry: LocalRegistry
) -> None:
    """SGLang loads a name again that was unloaded, if somebody asks for it and its folder is there."""
    following.round()
    registry.retract("net/one@1", reason="Wrong data.")
    try:
        assert following.round() == [f"dropped {PROD}"]
        assert stub.complete(PROD)[0] in (400, 404)
        assert following.round() == []
        assert following.problems != []
    finally:
        registry.retract("net/one@1", undo=True)
    following.round()
    assert stub.complete(PROD)[1]["weights"] == weights(registry, 1)


def test_folders_stay_while_a_request_may_read_them(registry: LocalRegistry, tmp_path: Path) -> None:
    stub = StubVllm()
    with stub.running():
        following = Following(registry, "vllm", stub.url, tmp_path / "served", (PROD, "net/two@prod"))
        with following.fleet.opened(), ExitStack() as stack:
            following.round()
            folder = Path(stub.table[PROD][1])
            client = threading.Thread(target=stub.complete, args=(PROD,))
            stub.hold = True
            client.start()
            until(lambda: stub.running_now)
            registry.untag("net/one", "prod")
            stack.callback(registry.tag, "net/one@1", "prod")
            assert following.round() == [f"dropped {PROD}"]
            for _ in range(4):
                assert following.round() == []
            assert folder.is_dir()
            stub.hold = False
            client.join()
            following.round()
            following.round()
            assert following.round() == ["removed net/one@1"]
    assert not folder.exists()
    assert stub.faults == []


def test_a_name_that_somebody_else_loaded_stays(following: Following, stub: Stub, tmp_path: Path) -> None:
    elsewhere = following.registry.fetch("net/one@2", tmp_path / "elsewhere").folder
    path = "/v1/load_lora_adapter" if isinstance(stub, StubVllm) else "/load_lora_adapter"
    httpx.post(stub.url + path, json={"lora_name": PROD, "lora_path": elsewhere})
    assert following.round()[-1] == f"failed {PROD}"
    assert following.problems[0].code == "folder_taken"
    assert "elsewhere" in str(following.problems[0])
    assert stub.complete(PROD)[1]["weights"] == weights_in(elsewhere)


def test_a_dry_run_tells_and_changes_nothing(registry: LocalRegistry, stub: Stub, tmp_path: Path) -> None:
    kind = "vllm" if isinstance(stub, StubVllm) else "sglang"
    following = Following(registry, kind, stub.url, tmp_path / "served", dry_run=True)
    with following.fleet.opened():
        assert following.round() == [f"brought {PROD}", f"switched {PROD}"]
    assert stub.calls == []
    assert not (tmp_path / "served").exists()


def test_all_engines_behind_a_name_are_found_in_each_round(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = StubVllm(), StubVllm()
    two.process = 2
    with one.running(), two.running():
        both = [stub.url.removeprefix("http://") for stub in (one, two)]
        found = both[:1]
        monkeypatch.setattr(asked, "addresses", lambda _: [*found, "127.0.0.1:1"])
        following = Following(registry, "vllm", "http://engines:8000", tmp_path / "served")
        with following.fleet.opened():
            assert following.round() == [f"brought {PROD}", f"switched {PROD}", "failed unavailable"]
            found.append(both[1])
            assert following.round() == [f"switched {PROD}"]
            assert one.complete(PROD) == two.complete(PROD)
            registry.tag("net/one@2", "prod")
            two.refused["net--one@2"] = "no free slots"
            assert following.round() == [f"brought {PROD}", f"switched {PROD}", f"failed {PROD}"]
            assert "127.0.0.1:1" in str(following.problems[-1])
            assert one.complete(PROD)[1]["weights"] == weights(registry, 2)
            assert two.complete(PROD)[1]["weights"] == weights(registry, 1)


@pytest.mark.parametrize("when", ["at once", "later"])
def test_several_processes_behind_one_address_are_refused(
    following: Following, stub: Stub, registry: LocalRegistry, when: str
) -> None:
    if when == "later":
        following.round()
        registry.tag("net/one@2", "prod")
    stub.calls.clear()
    turns = random.Random(7)
    stub.others = iter(lambda: turns.choice((1, 2)), None)
    told = [one for _ in range(1 if when == "at once" else 12) for one in following.round()]
    assert "failed usage" in told
    assert isinstance(following.problems[0], UsageError)
    assert "Several processes answer" in str(following.problems[0])
    assert when == "later" or stub.calls == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": "0.24.0"}, "from cached blocks"),
        ({"version": "unknown"}, "from cached blocks"),
        ({"servers": 2}, "several API servers"),
        ({"metrics": 'vllm:num_requests_running{engine="1",model_name="m"} 0.0\n'}, "several data-parallel engines"),
    ],
)
def test_vllm_that_cannot_be_followed_is_refused(
    registry: LocalRegistry, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    stub = StubVllm()
    vars(stub).update(change)
    with stub.running():
        following = Following(registry, "vllm", stub.url, tmp_path / "served")
        with following.fleet.opened():
            assert following.round() == ["failed usage"]
    assert isinstance(following.problems[0], UsageError)
    assert sentence in str(following.problems[0])
    assert stub.calls == []


def test_an_engine_that_takes_no_adapters_or_sees_no_folder_says_what_to_do(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    stub = StubVllm()
    stub.updating = False
    with stub.running():
        following = Following(registry, "vllm", stub.url, tmp_path / "served")
        with following.fleet.opened():
            assert following.round()[-1] == f"failed {PROD}"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in str(following.problems[0])
    stub.updating = True
    stub.sees = False
    with stub.running():
        following = Following(registry, "vllm", stub.url, tmp_path / "served")
        with following.fleet.opened():
            following.round()
    assert "mounted at the same path" in str(following.problems[0])


def test_sglang_is_never_made_to_throw_out_what_serves(registry: LocalRegistry, tmp_path: Path) -> None:
    stub = StubSglang()
    stub.settings["max_loaded_loras"] = 1
    with stub.running():
        following = Following(registry, "sglang", stub.url, tmp_path / "served")
        with following.fleet.opened():
            following.round()
            registry.tag("net/one@2", "prod")
            assert following.round()[-1] == f"failed {PROD}"
            assert "--max-loaded-loras" in str(following.problems[0])
            assert stub.complete(PROD)[1]["weights"] == weights(registry, 1)
            stub.settings |= {"max_loaded_loras": None, "tokenizer_worker_num": 4}
            assert following.round() == ["failed usage"]
            assert "--tokenizer-worker-num 4" in str(following.problems[0])
            stub.settings |= {"tokenizer_worker_num": 1, "enable_lora": False}
            following.round()
            assert "--enable-lora" in str(following.problems[0])


def test_an_engine_with_the_plugin_is_left_to_it(registry: LocalRegistry, tmp_path: Path) -> None:
    stub = StubWithPlugin(lambda name: str(registry.where([name])[0].reference))
    with stub.running():
        following = Following(registry, "vllm", stub.url, tmp_path / "served")
        with following.fleet.opened():
            assert following.round() == [f"switched {PROD}"]
            assert stub.calls == ["ask net/@", f"ask {PROD}"]
            assert following.round() == []
            registry.tag("net/one@2", "prod")
            assert following.round() == [f"switched {PROD}"]
            assert not [call for call in stub.calls if call.startswith(("load", "unload"))]
            stub.follows = False
            stub.calls.clear()
            registry.tag("net/one@1", "prod")
            stub.refused["net/one@1"] = "vLLM can't load net/one@1 as an adapter."
            assert following.round() == [f"failed {PROD}"]
            assert f"unload {PROD}" not in stub.calls
            stub.refused.clear()
            stub.calls.clear()
            assert following.round() == [f"switched {PROD}"]
            assert stub.calls[-3:] == ["ask net/one@1", f"unload {PROD}", f"ask {PROD}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vllm=http://engine:8000", "needs the folder"),
        ("sglang=http://engine:8000,folder=", "needs the folder"),
        ("vllm=engine:8000,folder=/adapters", "http://HOST:PORT is expected"),
        ("vllm=http://engine:port,folder=/adapters", "http://HOST:PORT is expected"),
        ("vllm=http://me:secret@engine,folder=/adapters", "http://HOST:PORT is expected"),
    ],
)
def test_engines_that_are_named_wrongly_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        sink_of(text)


def test_a_host_is_asked_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (host, 8000)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [*found, (10, 1, 6, "", ("fd00::1", 8000, 0, 0))])
    assert endpoint.addresses("http://engines:8000") == ["10.0.0.1:8000", "10.0.0.2:8000"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(10, 1, 6, "", ("fd00::1", 8000, 0, 0))])
    assert endpoint.addresses("http://engines:8000") == ["[fd00::1]:8000"]
    assert endpoint.check_url("https://engines/v1/") == "https://engines"
