"""Run by test_faults: kills forked children of its own at each change that they make to the file system."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from registry.services.local import LocalRegistry
from registry.services.publishing import publish  # noqa: F401 - likewise

EVENTS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect"}


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Run ``work`` in a fork that kills itself before its ``step``-th change; whether it got that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: Any) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in EVENTS or writes:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def opened(root: Path) -> LocalRegistry:
    return LocalRegistry.open(root / "registry", cache_folder=root / "cache")


def publishing(root: Path, adapters: list[str], **options: Any) -> int:
    """Publish with a kill at every step; what was there before is always there after."""
    step = 0
    while True:
        step += 1

        def work(step: int = step) -> None:
            opened(root).publish(adapters[step % len(adapters)], f"net/step{step}", **options)

        before = {revision.reference for revision in opened(root).search().revisions}
        was_killed = killed_at(step, work)
        registry = opened(root)
        after = {revision.reference: revision for revision in registry.search().revisions}
        assert before <= set(after), (before, set(after))
        for reference in set(after) - before:
            registry.show(reference)
        registry.close()
        if not was_killed:
            return step
        again = opened(root)
        assert again.publish(adapters[step % len(adapters)], f"net/step{step}", **options).revision.number == 1
        again.close()
        left = [path.name for path in (root / "registry/tmp").iterdir()]
        assert left == [], left


def combining(root: Path, sources: list[str]) -> int:
    """Combine with a kill at every step: the combination is there whole, or not at all, and the next run makes it."""
    step = 0
    while True:
        step += 1

        def work(step: int = step) -> None:
            opened(root).combine([(ref, step / 8) for ref in sources], "net/mixed")

        registry = opened(root)
        before = {revision.reference for revision in registry.search(all_revisions=True).revisions}
        registry.close()
        was_killed = killed_at(step, work)
        registry = opened(root)
        for revision in registry.search(all_revisions=True).revisions:
            if revision.reference not in before:
                assert [source.reference for source in revision.sources] == sources, revision
        registry.close()
        if not was_killed:
            return step
        assert not killed_at(10**9, work)
        assert not killed_at(10**9, lambda: assert_made_again(root))
        left = [path.name for path in (root / "registry/tmp").iterdir()]
        assert left == [], left


def assert_made_again(root: Path) -> None:
    assert [one.state for one in opened(root).replay("net/mixed").combinations] == ["same"]


def fetching(root: Path, reference: str) -> int:
    """Fetch with a kill at every step; what has the name is complete, and litter goes with the next run."""
    step = 0
    while True:
        step += 1
        out = root / f"out{step}"

        def work(out: Path = out) -> None:
            opened(root).fetch(reference, out, kind="merged")

        was_killed = killed_at(step, work)
        if out.exists() and (out / "registry-receipt.json").exists():
            assert not killed_at(10**9, partial(assert_equal, root, out))
        if not was_killed:
            return step
        assert not killed_at(10**9, work)
        litter = [path.name for path in root.iterdir() if path.name.startswith(f".out{step}.")]
        assert litter == [], litter


def assert_equal(root: Path, out: Path) -> None:
    assert opened(root).verify(out).equal


if __name__ == "__main__":
    root = Path(sys.argv[1])
    what = sys.argv[2]
    given = sys.argv[3:]
    if what == "fetch":
        steps = fetching(root, given[0])
    else:
        steps = combining(root, given) if what == "combine" else publishing(root, given, full=what == "full")
    print(json.dumps(steps))
