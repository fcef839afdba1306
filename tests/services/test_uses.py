"""What counts as a use of a revision, how it is written, and what becomes of it when it can't be."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.errors import UnavailableError, UsageError
from registry.operations.registry import Registry
from registry.rights import UNLIMITED, Principal
from registry.schemas.usage import Use
from registry.services import loads
from registry.services.loads import UseLog
from registry.services.local import LocalRegistry
from tests.folders.nobody import as_nobody, public_folder
from tests.kit import plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened
from tests.kit.serving import ServedRegistry, open_http
from tests.kit.statements import READS, statements
from tests.root import ROOT

ANN = Principal("ann", UNLIMITED)
BOB = Principal("bob", UNLIMITED, token="tok_bob", source="192.0.2.7")


def fill(registry: Registry, folder: Path) -> None:
    """net/one@1, and net/one/two@1 on it."""
    base = plain_base(folder / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(folder / "one", base, ["a", "b"], r=2), "net/one")
    registry.publish(write_adapter(folder / "two", base, ["a"], r=2, seed=1), "net/one/two")


def local_of(registry: Registry) -> LocalRegistry:
    found = registry.local if isinstance(registry, ServedRegistry) else registry
    assert isinstance(found, LocalRegistry)
    return found


def written(registry: Registry) -> UseLog:
    log = local_of(registry).deployment.uses
    assert log is not None
    log.write()
    return log


def used(registry: Registry, ref: str) -> Use:
    written(registry)
    found = registry.show(ref).use
    assert found is not None
    return found


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        fill(kept, tmp_path)
        yield kept


def test_each_fetch_and_each_opened_artifact_is_a_use(registry: Registry, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    registry.fetch("net/one/two", tmp_path / "lora")
    registry.fetch("net/one/two", tmp_path / "lora")  # there already: it was asked for all the same
    registry.fetch("net/one/two@1", tmp_path / "published", kind="published")
    with registry.artifact("net/one/two", kind="merged") as artifact:
        artifact.file("config.json").read()
    found = used(registry, "net/one/two")
    assert (found.uses, found.by_interface, found.tokens) == (4, {"fetch": 4}, 1)
    assert found.last_used_at is not None
    assert began <= found.last_used_at <= datetime.now(UTC)
    assert used(registry, "net/one") == Use(), "a use of a child is none of its parent"


def test_looking_checking_publishing_and_copying_are_no_uses(registry: Registry, tmp_path: Path) -> None:
    registry.fetch("net/one", tmp_path / "merged", kind="merged")
    before = used(registry, "net/one")
    registry.show("net/one")
    registry.resolve("net/one")
    registry.verify(tmp_path / "merged")
    registry.materialise("net/one")
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    folder = write_adapter(tmp_path / "three", base, ["a"], r=2, seed=3)
    registry.publish(folder, "net/one/three", receipt=tmp_path / "merged" / "registry-receipt.json")
    with closing(LocalRegistry.open(tmp_path / "copy")) as other:
        registry.copy("net/one", other)
    with pytest.raises(UsageError):
        registry.fetch("net/one", tmp_path / "none", kind="merged", rank=1)
    registry.fetch("net", tmp_path / "base-alone", kind="merged")
    assert used(registry, "net/one") == before
    assert registry.show("net").use is None


def test_a_model_that_is_merged_on_this_machine_is_used_once(registry: Registry, tmp_path: Path) -> None:
    for name in ("first", "second"):
        registry.fetch("net/one", tmp_path / name, kind="merged", base_dir=tmp_path / "base")
    registry.fetch("net/one", tmp_path / "third", kind="merged")  # on the folder that is known by now
    assert used(registry, "net/one").uses == 3


def test_a_known_folder_of_another_base_is_no_second_use(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with closing(open_http(tmp_path)) as registry:
        fill(registry, tmp_path)
        other = plain_base(tmp_path / "other", {"a.weight": (24, 16), "b.weight": (16, 24)}, seed=5)
        registry.local.add_base("else", other.folder)  # not by the client: it knows no folder of it
        adapter = write_adapter(tmp_path / "x", other, ["a"], r=2)
        registry.publish(adapter, "else/x")
        registry.fetch("else/x", tmp_path / "merged", kind="merged")
        assert used(registry, "else/x").uses == 1


def test_show_asks_as_much_of_a_large_tree_as_of_a_small_one(tmp_path: Path) -> None:
    asked: list[int] = []
    with closing(LocalRegistry.open(tmp_path / "registry")) as local:
        fill(local, tmp_path)
        base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
        for turn in range(2):
            for count in range(5 * turn):
                folder = write_adapter(tmp_path / f"child-{count}", base, ["a"], r=2, seed=10 + count)
                local.publish(folder, f"net/one/child-{count}")
                local.tag("net/one@1", f"t{count}")
                local.fetch(f"net/one/child-{count}")
                local.fetch("net/one", tmp_path / f"out-{count}")
            local.fetch("net/one", tmp_path / f"once-{turn}")  # a use: only then it is asked by how many
            written(local)
            with statements(*READS) as sent:
                local.show("net/one")
            asked.append(len(sent))
    assert asked[0] == asked[1] < 25


# ------------------------------------------------------------------ the log itself


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry")) as opened:
        fill(opened, tmp_path)
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(local: LocalRegistry, clock: Clock) -> UseLog:
    return UseLog(local.deployment.database, clock)


def of_log(local: LocalRegistry, log: UseLog, ref: str = "net/one@1") -> Use:
    log.write()
    found = local.show(ref).use
    assert found is not None
    return found


def test_a_download_of_many_requests_is_one_use(local: LocalRegistry, log: UseLog, clock: Clock) -> None:
    for _ in range(5):
        log.note("net/one@1", "hub", BOB)
        clock.wait(minutes=9)
    log.write()  # a download goes on, whatever is written meanwhile
    log.note("net/one@1", "hub", BOB)
    assert (of_log(local, log).uses, of_log(local, log).last_used_at) == (1, clock.now)
    log.note("net/one@1", "hub", Principal("bob", UNLIMITED, token="tok_bob", source="192.0.2.8"))
    log.note("net/one@1", "hub", ANN)
    log.note("net/one@1", "vllm", BOB)
    log.note("net/one/two@1", "hub", BOB)
    clock.wait(minutes=10)
    log.note("net/one@1", "hub", BOB)
    found = of_log(local, log)
    assert (found.by_interface, found.tokens) == ({"hub": 4, "vllm": 1}, 2)
    assert of_log(local, log, "net/one/two@1").uses == 1


def test_fetches_are_counted_each(local: LocalRegistry, log: UseLog) -> None:
    for _ in range(5):
        log.note("net/one@1", "fetch", BOB)
    log.note("net", "fetch", BOB)
    assert of_log(local, log).by_interface == {"fetch": 5}


def test_memory_is_bounded(
    local: LocalRegistry, log: UseLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loads, "MOST", 3)
    for count in range(10):
        log.note("net/one@1", "hub", Principal(f"user {count}", UNLIMITED))
    assert (len(log._waiting), len(log._downloads)) == (3, 3)
    assert of_log(local, log).tokens == 3
    assert "7 uses were not counted" in caplog.text


def failing(
    log: UseLog, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """No change of the database works, until the answer is called; ``meanwhile`` is done while one is tried."""

    def fails(*_: Any, **__: Any) -> None:
        meanwhile()
        raise UnavailableError("The database is busy.", code="busy")

    monkeypatch.setattr(log._database, "change", fails)
    return lambda: monkeypatch.delattr(log._database, "change")


def test_a_service_keeps_what_it_can_not_write(
    local: LocalRegistry, log: UseLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loads, "WRITTEN_EVERY", 3600.0)
    log.start()
    works = failing(log, monkeypatch, lambda: log.note("net/one@1", "fetch", BOB))
    for _ in range(3):
        log.note("net/one@1", "fetch", BOB)
        log.write()
    log.note("net/one@1", "fetch", ANN)
    works()
    log.close()
    assert (of_log(local, log).uses, of_log(local, log).tokens) == (7, 2)
    assert [one.levelname for one in caplog.records if "uses can't be written" in one.message] == ["WARNING"]


def test_a_service_writes_by_itself(local: LocalRegistry, log: UseLog, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote = threading.Event()
    real = log.write

    def write() -> None:
        real()
        wrote.set()

    monkeypatch.setattr(loads, "WRITTEN_EVERY", 0.01)
    monkeypatch.setattr(log, "write", write)
    log.note("net/one@1", "fetch", BOB)
    log.start()
    assert wrote.wait(60)
    found = local.show("net/one@1").use
    log.close()
    assert found is not None
    assert found.uses == 1


def test_a_fetch_succeeds_where_its_use_can_not_be_written(
    local: LocalRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert local.deployment.uses is not None
    works = failing(local.deployment.uses, monkeypatch)
    with caplog.at_level(logging.DEBUG, "registry.services.loads"):
        local.fetch("net/one", tmp_path / "out")
    works()
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert [one.levelname for one in caplog.records if "uses are not counted" in one.message] == ["DEBUG"]
    assert used(local, "net/one") == Use()


def test_a_folder_that_is_only_read_goes_on_being_read() -> None:
    with public_folder() as place:
        with closing(LocalRegistry.open(place / "registry")) as opened:
            fill(opened, place)
        for path in (place / "registry", *(place / "registry").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (place / "own").mkdir()
        (place / "own").chmod(0o777)
        # What is imported on the way is loaded first: the folder that the checkout lies in may be closed to others.
        shutil.copytree(place / "registry", place / "copy")
        with closing(LocalRegistry.open(place / "copy", create=False)) as copy:
            copy.fetch("net/one", place / "own" / "first")
            copy.show("net/one")
        with as_nobody(), closing(LocalRegistry.open(place / "registry", create=False)) as theirs:
            assert theirs.fetch("net/one", place / "own" / "out").fresh
            assert theirs.show("net/one").use == Use()


def test_a_database_that_refuses_changes_is_only_read(local: LocalRegistry, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "registry" / "registry.db") as connection:
        connection.execute("CREATE TRIGGER frozen BEFORE INSERT ON uses BEGIN SELECT RAISE(ABORT, 'read-only'); END")
    connection.close()
    local.fetch("net/one", tmp_path / "out")
    assert used(local, "net/one") == Use()


@pytest.mark.slow
def test_a_registry_that_nobody_closes_is_written_at_the_end(local: LocalRegistry, tmp_path: Path) -> None:
    code = (
        "import registry\n"
        f"team = registry.connect({str(tmp_path / 'registry')!r})\n"
        "for ref in ('net/one', 'net/one', 'net/one/two', 'net/one'): team.artifact(ref)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={"PATH": "", "HOME": str(tmp_path)})
    assert (used(local, "net/one").uses, used(local, "net/one/two").uses) == (3, 1)


def test_gc_forgets_old_counts(local: LocalRegistry, log: UseLog, clock: Clock) -> None:
    clock.wait(days=-402)
    log.note("net/one@1", "fetch", BOB)
    assert of_log(local, log).last_used_at == clock.now
    local.gc(dry_run=True)
    assert of_log(local, log).last_used_at == clock.now
    local.gc()
    assert of_log(local, log) == Use()
