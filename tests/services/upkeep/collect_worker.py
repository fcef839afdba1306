"""Run by test_collect: kills forked collectors of its own at each change that they make to files or the database."""

from __future__ import annotations

import json
import sys

from registry.progress import SILENT
from registry.schemas import Collected
from registry.services.publishing import publish  # noqa: F401 - imported before the forks, it takes seconds
from registry.services.upkeep.collect import collect
from registry.services.upkeep.health import check
from tests.kit.places import open_deployment, open_registry
from tests.services.fault_worker import killed_at


def killed(spec: str, adapters: list[str]) -> None:
    """Collect with a kill before every change in turn; the next run finishes it, and all that is needed stays."""
    step = 0
    while True:
        step += 1
        registry = open_registry(spec, open_deployment(spec))
        gone = registry.publish(adapters[step % len(adapters)], f"net/step{step}").revision.reference
        registry.delete(gone)
        deployment = open_deployment(spec)
        deployment.blobs.put_bytes(f"left over {step}".encode() * 50_000)
        registry.close()
        deployment.database.dispose()

        def work() -> Collected:
            return collect(open_deployment(spec), dry_run=False, progress=SILENT, grace=0)

        was_killed = killed_at(step, lambda: (work(), None)[1])
        assert check(open_deployment(spec), deep=True, progress=SILENT).damage == ()
        again = work()
        found = check(open_deployment(spec), deep=True, progress=SILENT)
        assert (found.damage, found.orphans) == ((), 0), found
        if not was_killed:
            assert again.blobs == ()
            print(json.dumps(step))
            return


if __name__ == "__main__":
    killed(sys.argv[1], sys.argv[2:])
