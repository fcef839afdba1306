"""The loop against a stub of vLLM's server on a real event loop, and a real registry, with faults put between them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from registry.errors import RegistryError, UnavailableError
from registry.schemas.followed import Where
from registry.schemas.running import NameReport
from registry.vllm import following
from registry.vllm.following import EngineError, Follower, Memory, ServerEndedError
from registry.vllm.inside import Inside
from registry.vllm.resolver import Followed, RegistryResolver
from registry.vllm.served import Asked
from tests.kit.recipes import Recipe
from tests.vllm.conftest import MakeResolver, Place
from tests.vllm.engine import RefusedRequestError, Request, Server

PROD = "net/support/french@prod"


class Running:
    """A server on an event loop that lives on, and a follower whose rounds a test makes one by one."""

    def __init__(self, tree: Place, resolver: RegistryResolver, **sizes: int) -> None:
        self.tree = tree
        self.resolver = resolver
        self.server = Server(resolver, **sizes)  # type: ignore[arg-type]
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.source = Followed(resolver, "net")
        self.follower = Follower(Inside(self.server, self.loop), self.source)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def complete(self, model: str = PROD, **options: Any) -> str:
        return str(self.run(self.server.complete(model, **options)))

    def refused(self, model: str = PROD) -> RegistryError:
        with pytest.raises(RefusedRequestError) as caught:
            self.complete(model)
        return caught.value.problem

    def revision(self, model: str = PROD) -> int:
        """Which revision the table has for a name; 0: none."""
        found = self.server.lora_requests.get(model)
        return 0 if found is None else int(found.lora_name.partition("#")[2].partition("-")[0])

    def stop(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


MakeRunning = Callable[..., Running]


@pytest.fixture
def make_running(tree: Place, make_resolver: MakeResolver) -> Iterator[MakeRunning]:
    made: list[Running] = []

    def make(resolver: RegistryResolver | None = None, **sizes: int) -> Running:
        made.append(Running(tree, resolver or make_resolver(), **sizes))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def running(make_running: MakeRunning) -> Running:
    """One whose name has been asked for, with room for more."""
    running = make_running(slots=2, cpu=8)
    running.complete()
    return running


def test_a_moved_tag_is_warm_before_the_name_leads_to_it(running: Running) -> None:
    before = running.complete()
    running.tree.registry.tag("net/support/french@2", "prod")
    assert running.complete() == before
    assert not running.follower.attempt()
    assert running.revision() == 2
    loads = running.server.loads
    after = running.complete()
    assert after == running.complete("net/support/french@2") != before
    assert running.server.loads == loads  # the request did not wait for a load
    assert running.server.asked == [PROD, "net/support/french@2"]  # nor for the registry
    running.tree.registry.tag("net/support/french@1", "prod")
    running.follower.attempt()
    assert running.complete() == before


def test_requests_that_never_pause_all_succeed_and_none_mixes(running: Running) -> None:
    """The stub looks into the table twice, as vLLM does: a name that is dropped in between is a request that fails."""
    seen: list[str] = []
    over = False

    async def client() -> None:
        while not over:
            seen.append(await running.server.complete(PROD, steps=3))

    clients = [asyncio.run_coroutine_threadsafe(client(), running.loop) for _ in range(6)]
    for move in range(8):
        running.tree.registry.tag(f"net/support/french@{2 - move % 2}", "prod")
        running.follower.attempt()
    over = True
    for one in clients:
        one.result(60)
    assert len(set(seen)) == 2


def test_a_request_that_has_begun_ends_on_what_it_began_with(running: Running) -> None:
    before = running.complete()
    slow = asyncio.run_coroutine_threadsafe(running.server.complete(PROD, steps=100), running.loop)
    running.run(asyncio.sleep(0.01))
    running.tree.registry.tag("net/support/french@2", "prod")
    running.follower.attempt()
    assert running.complete() != before
    assert slow.result(60) == before


def test_what_is_retracted_is_dropped_and_its_next_request_reads_why(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.complete("net/support/french@1")
    running.complete("net/support/french@2")
    running.tree.registry.retract("net/support/french@1", reason="Wrong data.")
    running.follower.attempt()
    assert [running.revision(f"net/support/french@{one}") for one in ("prod", "1", "2")] == [0, 0, 2]
    assert "Wrong data." in str(running.refused())
    assert [PROD in record.message for record in caplog.records].count(True) == 2  # dropped, and then refused


def test_a_retraction_above_is_one_below(running: Running) -> None:
    running.tree.registry.retract("net/support@1", reason="Wrong data.")
    running.follower.attempt()
    assert running.revision() == 0
    assert running.refused().code == "retracted"


def test_what_is_deleted_is_dropped(running: Running) -> None:
    running.tree.registry.untag("net/support/french", "prod")
    running.follower.attempt()
    assert running.revision() == 0
    assert running.refused().code == "not_found"


def test_names_that_can_not_move_are_followed_too_and_others_names_are_not(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = running.server.lora_requests[PROD].lora_name
    running.complete(shown)
    other = Request("net/support/french@prod", 7, running.server.lora_requests[PROD].lora_path)
    running.server.lora_requests["net/support/french@other"] = other  # as somebody loads it by hand
    running.tree.registry.retract("net/support/french@1", reason="Wrong data.")
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(running.source, "where", counted(running.source.where, asked))
    running.follower.attempt()
    assert asked == [["net/support/french@1", "net/support/french@prod"]]
    assert list(running.server.lora_requests) == ["net/support/french@other"]


def counted(where: Callable[[Sequence[str]], Any], asked: list[Sequence[str]]) -> Callable[[Sequence[str]], Any]:
    def count(names: Sequence[str]) -> Any:
        asked.append(names)
        return where(names)

    return count


def test_a_registry_that_does_not_answer_changes_nothing_and_is_said_once(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    right = running.source.where
    running.tree.registry.tag("net/support/french@2", "prod")
    caplog.clear()
    for problem in (UnavailableError("It does not answer."), UnavailableError("Still not."), ZeroDivisionError()):

        def fails(names: Sequence[str], problem: Exception = problem) -> Any:
            raise problem

        monkeypatch.setattr(running.source, "where", fails)
        assert not running.follower.attempt()
    assert running.revision() == 1
    (record,) = caplog.records
    assert (record.levelname, "It does not answer." in record.message) == ("WARNING", True)
    monkeypatch.setattr(running.source, "where", right)
    running.follower.attempt()
    assert running.revision() == 2


@pytest.mark.parametrize(
    ("base", "name", "word"),
    [
        ("not_found", "not_found", "REGISTRY_URL"),
        ("not_allowed", "not_found", "REGISTRY_URL"),
        ("", "not_allowed", "No."),
        ("", "some_code_of_later", "No."),
    ],
)
def test_what_is_no_word_about_a_name_changes_nothing_and_is_said_once(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    base: str,
    name: str,
    word: str,
) -> None:
    def where(names: Sequence[str]) -> tuple[Where, ...]:
        return tuple(
            Where(name=one, reference=one)
            if one == "net" and not base
            else Where(name=one, code=base if one == "net" else name, problem="No.")
            for one in names
        )

    right = running.source.where
    monkeypatch.setattr(running.source, "where", where)
    for _ in range(3):
        running.follower.attempt()
    assert running.revision() == 1
    (record,) = caplog.records
    assert PROD in record.message
    assert word in record.message
    monkeypatch.setattr(running.source, "where", right)
    running.follower.attempt()
    monkeypatch.setattr(running.source, "where", where)
    running.follower.attempt()
    assert len(caplog.records) == 2  # it was well meanwhile


def test_a_retraction_counts_whatever_the_base_is(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def where(names: Sequence[str]) -> tuple[Where, ...]:
        return tuple(
            Where(name=one, code="not_found" if one == "net" else "retracted", problem="It was.") for one in names
        )

    monkeypatch.setattr(running.source, "where", where)
    running.follower.attempt()
    assert running.revision() == 0


def test_what_the_engine_refuses_leaves_the_old_one_and_is_tried_again(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("registry.vllm.following.time.monotonic", lambda: clock[0])
    engine = running.server.engine_client
    before = running.complete()
    tries = []

    def refuses(request: Request) -> bool:
        tries.append(clock[0] - 1000)
        return True

    engine.refuses = refuses
    running.tree.registry.tag("net/support/french@2", "prod")
    for _ in range(200):
        running.follower.attempt()
        clock[0] += 1
    assert running.complete() == before
    assert not engine.dead
    assert tries == [0, 2, 6, 14, 30, 62, 122, 182]  # at most a minute apart
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "net/support/french@2 can't be loaded" in record.message
    assert "is not supported" in record.message
    engine.refuses = lambda request: False
    clock[0] += 60
    running.follower.attempt()
    assert running.complete() != before


def test_what_our_rules_refuse_leaves_the_old_one(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    before = running.complete()
    wide = running.tree.publish("net/support/french", Recipe(("one",), r=12))
    running.tree.registry.tag(wide, "prod")
    running.follower.attempt()
    assert running.complete() == before
    (record,) = caplog.records
    assert f"{wide} can't be loaded" in record.message
    assert "--max-lora-rank" in record.message
    running.tree.registry.tag("net/support/french@2", "prod")
    running.follower.attempt()
    assert running.revision() == 2


def test_a_retraction_of_what_serves_counts_also_where_the_name_leads_to_what_is_refused(running: Running) -> None:
    """Better none than retracted weights."""
    wide = running.tree.publish("net/support/french", Recipe(("one",), r=12), "prod")
    running.follower.attempt()
    running.follower.attempt()
    assert running.revision() == 1
    running.tree.registry.retract("net/support/french@1", reason="Wrong data.")
    running.follower.attempt()
    assert running.revision() == 0
    assert wide in str(running.refused())


@pytest.mark.parametrize(
    "problem",
    [UnavailableError("It went away."), OSError(28, "No space left on device"), MemoryError("A bug, or no memory.")],
)
def test_what_can_not_be_brought_leaves_the_old_one(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    running.complete("net/support")
    right = running.source.bring

    def fails(asked: Asked) -> Any:
        if asked.text == PROD:
            raise problem
        return right(asked)

    monkeypatch.setattr(running.source, "bring", fails)
    running.tree.registry.tag("net/support/french@2", "prod")
    running.tree.publish("net/support", Recipe(("one",), r=2, seed=5))
    running.follower.attempt()
    assert (running.revision(), running.revision("net/support")) == (1, 2)  # it stops no other name
    (record,) = caplog.records
    assert str(problem) in record.message
    assert (record.exc_info is not None) == isinstance(problem, MemoryError)


def test_two_names_that_move_to_one_revision_share_an_adapter(running: Running) -> None:
    running.tree.registry.tag("net/support/french@1", "next")
    running.complete("net/support/french@next")
    loads = running.server.loads
    for tag in ("prod", "next"):
        running.tree.registry.tag("net/support/french@2", tag)
    running.follower.attempt()
    assert [running.revision(f"net/support/french@{tag}") for tag in ("prod", "next")] == [2, 2]
    assert running.server.loads == loads + 1


def test_what_is_unloaded_by_hand_meanwhile_stays_unloaded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Inside(running.server, running.loop)
    request = running.server.lora_requests[PROD]
    right = running.source.bring

    def bring(asked: Asked) -> Any:
        running.server.unload(PROD)
        return right(asked)

    monkeypatch.setattr(running.source, "bring", bring)
    running.tree.registry.tag("net/support/french@2", "prod")
    running.follower.attempt()
    assert running.server.lora_requests == {}
    assert not inside.drop(PROD, request)  # twice
    running.complete()
    assert running.revision() == 2
    assert not inside.put(PROD, request, request)  # somebody loaded it anew


def test_vllms_lock_of_a_name_is_waited_for_while_it_has_what_was_seen_and_not_else(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM holds it while it resolves, loads or unloads the name, which takes as long as the registry does."""
    monkeypatch.setattr("registry.vllm.inside._LOOKS", 0.05)
    monkeypatch.setattr("registry.vllm.inside._ANSWERS", 0.2)
    inside = Inside(running.server, running.loop)
    request = running.server.lora_requests[PROD]
    lock = running.server.lora_resolver_lock[PROD]
    other = Request("other", 7, request.lora_path)
    running.run(lock.acquire())
    with pytest.raises(EngineError):
        inside.put(PROD, request, other)
    assert running.server.lora_requests[PROD] is request
    waiting = asyncio.run_coroutine_threadsafe(inside._put(PROD, request, other), running.loop)
    running.run(asyncio.sleep(0))
    loaded = running.server.lora_requests[PROD] = Request("by hand", 8, request.lora_path)
    assert not inside.put(PROD, request, other)
    running.loop.call_soon_threadsafe(lock.release)
    assert waiting.result(60) is False
    assert running.server.lora_requests[PROD] is loaded


def test_names_in_use_move_before_those_that_rest(make_running: MakeRunning, monkeypatch: pytest.MonkeyPatch) -> None:
    running = make_running(slots=1)
    names = [PROD, "net/support/french@next"]
    running.tree.registry.tag("net/support/french@2", "next")
    for name in names:
        running.complete(name)
    brought = []
    right = running.source.bring

    def bring(asked: Asked) -> Any:
        brought.append(asked.text)
        return right(asked)

    monkeypatch.setattr(running.source, "bring", bring)
    third = running.tree.publish("net/support/french", Recipe(("one",), r=2, seed=4), "prod", "next")
    running.follower.attempt()
    assert brought == names[::-1]
    assert [running.complete(name) for name in names] == [running.complete(third)] * 2


@pytest.mark.parametrize(
    ("capacity", "named", "loaded", "takes"),
    [
        (3, {1, 2}, {1, 2}, True),  # all that is named fits with it
        (2, {1, 2}, {1, 2}, True),  # it does not, but its name is in use
        (2, {1, 2, 3}, {2, 3}, False),  # its name rests: nothing that serves has to leave for it
        (2, {1, 2, 3}, {3, 9}, True),  # it is there already
        (1, {1}, {1}, True),
    ],
)
def test_only_what_is_in_use_is_warmed_where_not_all_fits(
    capacity: int, named: set[int], loaded: set[int], takes: bool
) -> None:
    assert Memory(capacity, frozenset(named), frozenset(loaded)).takes(9, 1) is takes


def test_a_name_that_rests_moves_at_its_next_request_and_evicts_nothing(make_running: MakeRunning) -> None:
    running = make_running(slots=1, cpu=2)
    names = [PROD, "net/support@1", "net/support/french@2"]
    for name in names:
        running.complete(name)
    assert len(running.server.engine_client.evicted) == 1  # that of prod
    running.tree.publish("net/support/french", Recipe(("one",), r=2, seed=4), "prod")
    running.follower.attempt()
    assert len(running.server.engine_client.evicted) == 1
    assert running.revision() == 0
    running.complete()
    assert running.revision() == 3


def test_one_adapter_of_room_is_enough_to_move_a_name(make_running: MakeRunning) -> None:
    running = make_running(slots=1)
    before = running.complete()
    slow = asyncio.run_coroutine_threadsafe(running.server.complete(PROD, steps=100), running.loop)
    running.run(asyncio.sleep(0.01))
    running.tree.registry.tag("net/support/french@2", "prod")
    running.follower.attempt()
    assert running.complete() != before
    assert slow.result(60) == before


def test_retractions_do_not_wait_for_many_moves(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"net/support/french@t{number}" for number in range(3)]
    for name in names:
        running.tree.registry.tag("net/support/french@1", name.partition("@")[2])
        running.complete(name)
    for name in names:
        running.tree.registry.tag("net/support/french@2", name.partition("@")[2])
    clock = [1000.0]
    monkeypatch.setattr("registry.vllm.following.time.monotonic", lambda: clock[0])
    right = running.source.bring

    def slow(asked: Asked) -> Any:
        clock[0] += 3
        return right(asked)

    monkeypatch.setattr(running.source, "bring", slow)
    assert [running.follower.attempt() for _ in names] == [True, True, False]  # asked anew after each
    assert [running.revision(name) for name in names] == [2, 2, 2]


def test_what_it_serves_is_reported_and_why_it_is_not_what_the_tag_means(running: Running) -> None:
    told: list[list[NameReport]] = []
    follower = Follower(Inside(running.server, running.loop), running.source, told.append)

    def last() -> list[tuple[str, int | None, int | None, str | None]]:
        follower.attempt()
        return [(one.name, one.serves, one.wants, one.code) for one in told[-1]]

    assert last() == [(PROD, 1, 1, None)]
    running.tree.registry.tag("net/support/french@2", "prod")
    running.server.engine_client.refuses = lambda request: True
    assert last() == [(PROD, 1, 2, "engine")]
    assert "is not supported" in str(told[-1][0].error)
    running.server.engine_client.refuses = lambda request: False
    running.tree.registry.untag("net/support/french", "prod")
    assert last() == []


def test_a_follower_in_vllm_is_seen_by_ps(running: Running) -> None:
    report = running.resolver._reporting("/models/net")
    follower = Follower(Inside(running.server, running.loop), running.source, report)
    follower.attempt()
    (row,) = running.tree.registry.running()
    assert (row.name, row.state, row.serves) == (PROD, "in_place", "net/support/french@1")
    assert row.follower is not None
    assert row.follower.name.endswith(" /models/net")
    running.tree.registry.retract("net/support/french@1", reason="leaks")
    follower.attempt()
    (row,) = running.tree.registry.running()
    assert (row.name, row.serves) == (None, None)


def test_more_names_than_one_request_holds_are_asked_for_in_several() -> None:
    asked: list[Sequence[str]] = []
    dropped: list[tuple[str, Any]] = []

    class Many:
        base = "net"

        def where(self, names: Sequence[str]) -> tuple[Where, ...]:
            asked.append(names)
            return tuple(
                Where(name=one, reference=one, digest="sha256:0") if one == "net" else Where(name=one, code="not_found")
                for one in names
            )

        def bring(self, asked: Asked) -> Any:
            raise AssertionError(asked)

        def given(self, request: Any) -> str | None:
            return f"{request} sha256:0"

    class Table:
        def names(self) -> dict[str, Any]:
            return {f"net/a@{number}": f"net/a@{number}" for number in range(1, 1500)}

        def drop(self, name: str, before: Any) -> bool:
            dropped.append((name, before))
            return True

    Follower(Table(), Many()).round()  # type: ignore[arg-type]
    assert [len(names) for names in asked] == [1000, 499, 1000, 501]
    assert [names[0] for names in asked[2:]] == ["net", "net"]  # in the same answer as each that is not found
    assert len(dropped) == 1499


def test_the_loop_ends_with_its_server_and_begins_anew_with_another(
    tree: Place, make_resolver: MakeResolver, make_running: MakeRunning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL", 0.01)
    resolver = make_resolver(REGISTRY_VLLM_FOLLOW="1")
    for revision in (2, 1):
        running = make_running(resolver, slots=2, cpu=4)
        before = running.complete()
        tree.registry.tag(f"net/support/french@{revision}", "prod")
        for _ in range(3000):
            if running.revision() != revision:
                running.run(asyncio.sleep(0.01))
        assert running.complete() != before
        follower = resolver._follower
        assert follower is not None
        running.stop()
        follower._thread.join(60)
        assert not follower.alive()


def test_following_is_on_and_can_be_turned_off(
    tree: Place, make_resolver: MakeResolver, make_running: MakeRunning
) -> None:
    off = make_resolver(REGISTRY_VLLM_FOLLOW="0")
    make_running(off).complete()
    assert off._follower is None
    settings = make_resolver(REGISTRY_VLLM_FOLLOW="")._settings
    assert settings.vllm_follow


class Locks:
    """What a later vLLM may have in place of its dict of locks."""

    def __getitem__(self, name: str) -> asyncio.Lock:
        return asyncio.Lock()


def test_a_server_that_is_built_otherwise_is_not_followed_and_that_is_said_once(
    tree: Place, make_resolver: MakeResolver, make_running: MakeRunning, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = make_resolver(REGISTRY_VLLM_FOLLOW="1")
    running = make_running(resolver)
    running.server.lora_resolver_lock = Locks()  # type: ignore[assignment]
    for name in (PROD, "net/support"):
        running.complete(name)
    assert resolver._follower is None
    assert ["unload a name" in record.message for record in caplog.records] == [True]


def test_pauses_are_spread_and_grow_while_nothing_answers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(names: Sequence[str]) -> Any:
        raise UnavailableError("It does not answer.")

    monkeypatch.setattr(running.source, "where", fails)
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 9:
            running.stop()

    running.follower.run(pause)
    for seconds, expected in zip(paused, [2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert 0.8 * expected <= seconds <= 1.2 * expected
    assert len({round(seconds / expected, 6) for seconds, expected in itertools.pairwise(paused)}) > 1


def test_a_server_that_has_ended_is_told_from_an_engine_that_fails(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.vllm.inside._LOOKS", 0.05)
    monkeypatch.setattr("registry.vllm.inside._ANSWERS", 0.2)
    inside = Inside(running.server, running.loop)
    work: list[Callable[[], Coroutine[Any, Any, Any]]] = [lambda: asyncio.sleep(60), fails_late, cancels_itself]

    async def add_lora(request: Request) -> Any:
        return await work.pop(0)()

    monkeypatch.setattr(running.server.engine_client, "add_lora", add_lora)
    with pytest.raises(EngineError, match="did not answer"):
        inside.warm(running.server.lora_requests[PROD])
    with pytest.raises(EngineError, match="ran out of time"):
        inside.warm(running.server.lora_requests[PROD])
    with pytest.raises(ServerEndedError):
        inside.warm(running.server.lora_requests[PROD])
    running.stop()
    with pytest.raises(ServerEndedError):
        inside.names()


async def fails_late() -> None:
    raise TimeoutError


async def cancels_itself() -> None:
    raise asyncio.CancelledError
