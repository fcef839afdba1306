"""Work that outlives its request: answered at once, gone on with, handed on, told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from registry.catalogue.database.team_tables import JobRecord
from registry.catalogue.team import jobs as rows
from registry.errors import InvalidAdapterError, NotAllowedError, NotFoundError, UnavailableError
from registry.operations.table import COMMIT_PUBLISH, FSCK, GC
from registry.progress import Progress
from registry.schemas import Published
from registry.schemas.jobs import Operation, OperationResult
from registry.schemas.requests import FsckRequest, GcRequest
from registry.schemas.transfer import PublishCommit, PublishRequest
from registry.services import jobs as running
from registry.services.deployment import Deployment
from registry.services.jobs import ATTEMPTS, KINDS, Runner, operation, perform, submit
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter
from tests.kit.acting import acting
from tests.kit.sending import prepare, request_of

StartRunner = Callable[..., Runner]
NO_ADAPTER = PublishRequest(path="net/none", config=b"{}", header=b"", files=())
Perform = Callable[[Deployment, Any, Any, Progress], OperationResult]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def base(registry: LocalRegistry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", made.folder)
    return made


@pytest.fixture
def start(registry: LocalRegistry) -> Iterator[StartRunner]:
    """Starts runners, which are one replica each; they are closed at the end."""
    runners: list[Runner] = []

    def started(*, keeping: bool = True, **options: Any) -> Runner:
        runners.append(Runner(registry.deployment, **{"poll": 0.05, **options}))
        if keeping:
            runners[-1].start()
        return runners[-1]

    yield started
    for runner in runners:
        runner.close()


@pytest.fixture
def commit(registry: LocalRegistry, base: Base, tmp_path: Path) -> PublishCommit:
    """A publish whose bytes are uploaded."""
    return prepare(registry, request_of(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one"))


def ended(registry: LocalRegistry, operation_id: str) -> Operation:
    """The operation when it has come to an end."""
    deadline = time.monotonic() + 60
    while (found := registry.operation(operation_id)).state not in ("done", "failed"):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


class Gate:
    """Stands for long work: it tells a little progress again and again until it may end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.stopped = threading.Event()
        self.times = 0
        self._perform: Perform = perform
        monkeypatch.setattr(running, "perform", self)

    def __call__(self, deployment: Deployment, job: Any, request: Any, progress: Progress) -> OperationResult:
        self.times += 1
        progress.begin("Waiting", 100)
        self.entered.set()
        try:
            while not self.open.wait(0.005):
                progress.advance(0)
        except BaseException:
            self.stopped.set()
            raise
        progress.advance(60)
        return self._perform(deployment, job, request, progress)


def test_little_work_is_answered_without_an_operation(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit
) -> None:
    answer = start().answer(registry.deployment, COMMIT_PUBLISH, commit)
    assert isinstance(answer, OperationResult)
    assert answer.published is not None
    assert answer.published.revision.reference == "net/one@1"
    with registry.deployment.read() as session:
        assert rows.pending(session) == 0


def test_much_work_is_an_operation_that_ends(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "AT_ONCE", 0)
    gate = Gate(monkeypatch)
    runner = start()
    begun = runner.answer(registry.deployment, COMMIT_PUBLISH, commit, seconds=0)
    assert isinstance(begun, Operation)
    assert (begun.kind, begun.result) == ("publish", None)
    assert runner.answer(registry.deployment, COMMIT_PUBLISH, commit, seconds=0).id == begun.id  # type: ignore[union-attr]
    gate.entered.wait()
    gate.open.set()
    found = ended(registry, begun.id)
    assert found.result is not None
    assert isinstance(found.result.published, Published)
    assert found.result.published.created
    assert gate.times == 1


def test_progress_is_told_while_the_work_goes_on(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    begun = start().answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    gate.entered.wait()
    while (found := registry.operation(begun.id)).stage != "Waiting":
        time.sleep(0.01)
    assert (found.state, found.total) == ("running", 100)
    gate.open.set()
    assert ended(registry, begun.id).state == "done"


def test_what_goes_wrong_is_told_as_it_would_have_been(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = commit.request.model_copy(update={"header": b"\x02\x00\x00\x00\x00\x00\x00\x00{}"})
    bad = PublishCommit(request=cut, uploads=commit.uploads)
    runner = start()
    with pytest.raises(InvalidAdapterError) as refused:
        runner.answer(registry.deployment, COMMIT_PUBLISH, bad)
    monkeypatch.setattr(running, "AT_ONCE", 0)
    begun = runner.answer(registry.deployment, COMMIT_PUBLISH, bad, seconds=0)
    assert isinstance(begun, Operation)
    problem = ended(registry, begun.id).problem
    assert problem is not None
    assert (problem.kind, problem.code, problem.detail) == (
        "InvalidAdapterError",
        refused.value.code,
        str(refused.value),
    )


def test_operations_are_their_owner_s(registry: LocalRegistry, base: Base) -> None:
    mine = submit(acting(registry, "admin", token="tok_1").deployment, GC, GcRequest())
    assert registry.operation(mine.id).state == "pending"
    with pytest.raises(NotFoundError):
        acting(registry, "writer", token="tok_2").operation(mine.id)
    for who in (acting(registry, "writer"), acting(registry, "admin", "net")):
        with pytest.raises(NotAllowedError):
            submit(who.deployment, GC, GcRequest())


def test_another_replica_goes_on_where_one_was_killed(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit
) -> None:
    begun = submit(registry.deployment, COMMIT_PUBLISH, commit)
    with registry.deployment.database.write() as session:
        taken = rows.claim(session, "killed", KINDS, operation_id=begun.id, lease=timedelta(seconds=0.2))
    assert taken is not None
    start()
    found = ended(registry, begun.id)
    assert found.state == "done"
    with registry.deployment.read() as session:
        assert rows.get(session, begun.id, registry.deployment.principal).attempts == 2
    assert [one.reference for one in registry.search().revisions] == ["net/one@1"]


def test_work_of_a_newer_version_is_left_to_replicas_that_know_it(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit
) -> None:
    """Replicas roll one by one: what a newer one noted waits, and keeps nothing else waiting."""
    principal = registry.deployment.principal
    with registry.deployment.database.write() as session:
        newer = [rows.create(session, "knit", str(number), principal).id for number in range(4)]
    begun = submit(registry.deployment, COMMIT_PUBLISH, commit)
    start()
    assert ended(registry, begun.id).state == "done"
    with registry.deployment.read() as session:
        assert {rows.get(session, one, principal).state for one in newer} == {"pending"}
    with pytest.raises(UnavailableError, match="of the kind 'knit', which this replica"):
        registry.operation(newer[0])


def change_row(registry: LocalRegistry, operation_id: str, **texts: str) -> None:
    with registry.deployment.database.write() as session:
        session.execute(update(JobRecord).where(JobRecord.id == operation_id).values(**texts))


def row_of(registry: LocalRegistry, operation_id: str) -> rows.JobRow:
    with registry.deployment.read() as session:
        return rows.get(session, operation_id, registry.deployment.principal)


def test_what_is_not_used_is_not_written(registry: LocalRegistry, start: StartRunner, base: Base) -> None:
    """An older version refuses fields that it does not know: they are there only where they say something."""
    begun = submit(registry.deployment, FSCK, FsckRequest())
    assert row_of(registry, begun.id).request == "{}"
    start()
    found = ended(registry, begun.id)
    written = row_of(registry, begun.id).result
    assert written is not None
    assert list(json.loads(written)) == ["checked"]
    assert found.result is not None
    assert found.result.checked is not None
    refused = submit(registry.deployment, COMMIT_PUBLISH, PublishCommit(request=NO_ADAPTER, uploads={}))
    assert "null" not in row_of(registry, refused.id).request
    assert ended(registry, refused.id).state == "failed"
    assert "null" not in str(row_of(registry, refused.id).problem)


def test_a_request_in_a_newer_form_waits_for_a_newer_replica(registry: LocalRegistry, start: StartRunner) -> None:
    newer = [submit(registry.deployment, GC, GcRequest(dry_run=dry)).id for dry in (True, False)]
    for one in newer:
        change_row(registry, one, request='{"dry_run": true, "of_the_next_version": 1}')
    runner = start(keeping=False, threads=1)
    for one in newer:
        assert runner.run_until(registry.deployment, one, 60).state == "pending"
    runner.start()
    for count in range(3):  # they keep nothing else waiting
        assert ended(registry, submit(registry.deployment, FSCK, FsckRequest(deep=count == 1)).id).state == "done"
    noted = [row_of(registry, one) for one in newer]
    assert [(row.state, row.attempts) for row in noted] == [("pending", 0)] * 2
    times = [row.updated_at for row in noted]
    runner.run_until(registry.deployment, newer[0], 60)
    assert [row_of(registry, one).updated_at for one in newer] == times  # it is not taken up again by the same replica
    change_row(registry, newer[0], request="{}")
    start()  # the newer one
    assert ended(registry, newer[0]).state == "done"


@pytest.mark.parametrize("column", ["result", "problem"])
def test_an_answer_in_a_newer_form_is_told_by_a_newer_replica(registry: LocalRegistry, column: str) -> None:
    begun = submit(registry.deployment, GC, GcRequest())
    change_row(registry, begun.id, state="done", **{column: '{"of_the_next_version": 1}'})
    with pytest.raises(UnavailableError, match=f"{begun.id} was recorded in a form which this replica .* upgrade this"):
        registry.operation(begun.id)


def test_being_handed_on_is_no_attempt(registry: LocalRegistry, start: StartRunner, base: Base) -> None:
    begun = submit(registry.deployment, FSCK, FsckRequest())
    with registry.deployment.database.write() as session:
        for _ in range(ATTEMPTS + 1):
            assert rows.claim(session, "ending", KINDS, operation_id=begun.id) is not None
            assert rows.release(session, begun.id, "ending")
    start()
    assert ended(registry, begun.id).state == "done"


def test_what_was_done_before_the_process_was_killed_is_found_again(
    registry: LocalRegistry, start: StartRunner, commit: PublishCommit
) -> None:
    begun = submit(registry.deployment, COMMIT_PUBLISH, commit)
    registry.commit_publish(commit)  # and killed before the operation could be noted as done
    start()
    result = ended(registry, begun.id).result
    assert result is not None
    assert result.published is not None
    assert (result.published.created, result.published.revision.reference) == (False, "net/one@1")


def test_a_replica_that_ends_hands_its_work_on(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first = start()
    begun = first.answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    gate.entered.wait()
    first.close()
    assert registry.operation(begun.id).state == "pending"
    gate.open.set()
    start()
    assert ended(registry, begun.id).state == "done"
    assert gate.times == 2


def test_what_is_taken_up_while_a_replica_ends_is_given_back(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed before the end and begun after it: nobody would stop it any more, and the end would wait for it."""
    gate, runner = Gate(monkeypatch), start(keeping=False)
    claimed, stopped = threading.Event(), threading.Event()
    claim, shutdown = rows.claim, runner._pool.shutdown

    def late(*given: Any, **more: Any) -> Any:
        row = claim(*given, **more)
        claimed.set()
        assert stopped.wait(120)
        return row

    def after_works_were_stopped(**more: Any) -> None:
        stopped.set()
        shutdown(**more)

    monkeypatch.setattr(rows, "claim", late)
    monkeypatch.setattr(runner._pool, "shutdown", after_works_were_stopped)
    begun = submit(registry.deployment, FSCK, FsckRequest())
    taken_up = runner._submit(begun.id)
    assert claimed.wait(120)
    gate.open.set()  # so that without a repair it is done, and not waited for
    runner.close()
    assert (taken_up.result(), gate.times) == (False, 0)
    assert registry.operation(begun.id).state == "pending"
    monkeypatch.setattr(rows, "claim", claim)
    start()
    assert ended(registry, begun.id).state == "done"


@pytest.mark.slow
def test_a_lease_that_is_renewed_is_left_alone(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    lease = timedelta(seconds=5)  # longer than a busy machine lets a thread wait: renewed four times in it
    begun = start(lease=lease).answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    gate.entered.wait()
    start(lease=lease)
    seen: set[datetime] = set()
    while len(seen) < 4:  # until it was renewed three times
        with registry.deployment.read() as session:
            row = rows.get(session, begun.id, registry.deployment.principal)
        assert row.attempts == 1
        assert row.lease_until is not None
        seen.add(row.lease_until)
        time.sleep(0.02)
    gate.open.set()
    assert ended(registry, begun.id).state == "done"
    assert gate.times == 1


def test_who_lost_the_lease_stops(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    begun = start().answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    gate.entered.wait()
    with registry.deployment.database.write() as session:
        row = session.get(JobRecord, begun.id)
        assert row is not None
        row.runner = "another"
    assert gate.stopped.wait(60)
    found = registry.operation(begun.id)
    assert (found.state, found.result) == ("running", None)  # the other one's


def test_a_revoked_token_stops_what_it_asked_for(registry: LocalRegistry, start: StartRunner, base: Base) -> None:
    token = registry.create_token("admin").token.id
    begun = submit(acting(registry, "admin", token=token).deployment, GC, GcRequest(dry_run=True))
    registry.revoke_token(token)
    start()
    problem = ended(registry, begun.id).problem
    assert problem is not None
    assert (problem.kind, problem.code) == ("NotAllowedError", "bad_token")


def test_a_token_that_is_revoked_meanwhile_stops_the_work(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    token = registry.create_token("admin").token.id
    runner = start(lease=timedelta(seconds=4))
    begun = runner.answer(acting(registry, "admin", token=token).deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    gate.entered.wait()
    registry.revoke_token(token)
    assert gate.stopped.wait(60)
    problem = ended(registry, begun.id).problem
    assert problem is not None
    assert (problem.kind, problem.code, gate.times) == ("NotAllowedError", "bad_token", 1)


@pytest.mark.slow
def test_what_may_pass_is_tried_again(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[None] = []

    def fails_once(deployment: Deployment, job: Any, request: Any, progress: Progress) -> OperationResult:
        tries.append(None)
        if len(tries) == 1:
            raise UnavailableError("The store is down.")
        return perform(deployment, job, request, progress)

    monkeypatch.setattr(running, "perform", fails_once)
    begun = start().answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    assert ended(registry, begun.id).state == "done"
    assert len(tries) == 2


def test_the_wait_before_a_retry_is_not_replaced_by_a_renewal_under_way(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(deployment: Deployment, job: Any, request: Any, progress: Progress) -> OperationResult:
        raise UnavailableError("The store is down.")

    entered, renewed = threading.Event(), threading.Event()
    runner = start(keeping=False, lease=timedelta(hours=1))
    renew, put_off = runner._renew, runner._put_off

    def renew_noted(work: Any) -> None:
        renew(work)
        renewed.set()

    def put_off_slowly(work: Any) -> bool:
        noted = put_off(work)
        work.stage = "told since"  # a renewal would write it
        entered.set()
        renewed.wait(0.5)
        return noted

    monkeypatch.setattr(running, "perform", fails)
    monkeypatch.setattr(runner, "_renew", renew_noted)
    monkeypatch.setattr(runner, "_put_off", put_off_slowly)
    begun = submit(registry.deployment, FSCK, FsckRequest())
    trial = threading.Thread(target=runner.run_until, args=(registry.deployment, begun.id, 60))
    trial.start()
    assert entered.wait(60)
    runner.start()
    trial.join()
    runner.close()
    until = row_of(registry, begun.id).lease_until
    assert until is not None
    assert until - datetime.now(UTC) < timedelta(minutes=1)


def test_work_that_takes_its_process_down_does_not_go_round_for_ever(
    registry: LocalRegistry, start: StartRunner, base: Base
) -> None:
    begun = submit(registry.deployment, FSCK, FsckRequest())
    for _ in range(ATTEMPTS):
        with registry.deployment.database.write() as session:
            assert rows.claim(session, "killed", KINDS, operation_id=begun.id, lease=timedelta(0)) is not None
        time.sleep(0.001)
    start()
    problem = ended(registry, begun.id).problem
    assert problem is not None
    assert problem.code == "unexpected"


def test_a_bug_is_told_as_one(
    registry: LocalRegistry, start: StartRunner, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(deployment: Deployment, job: Any, request: Any, progress: Progress) -> OperationResult:
        raise ZeroDivisionError(deployment, request, progress)

    monkeypatch.setattr(running, "perform", breaks)
    begun = start().answer(registry.deployment, FSCK, FsckRequest(), seconds=0)
    assert isinstance(begun, Operation)
    problem = ended(registry, begun.id).problem
    assert problem is not None
    assert (problem.code, "ZeroDivision" in problem.detail) == ("unexpected", False)
    assert operation(registry.deployment, begun.id).state == "failed"
