"""`registry serve` with narrower limits, or as a machine with another arithmetic: what no setting offers operators.

Run as ``python -m tests.journeys.fault_serving serve ...`` with ``FAULT_LIMITS`` (JSON, fields of `Limits`) and
``FAULT_NUMERICS`` (a fingerprint) in the environment. All else is the service as it is.
"""

from __future__ import annotations

import json
import os
from typing import Any

from registry.http import server
from registry.http.limits import Limits
from registry.services import hub_repos
from registry.services.artifacts import commits
from registry.tensors.artifacts import plan


def _narrow(limits: Limits) -> None:
    serve = server.serve

    def narrowed(*given: Any, **named: Any) -> None:
        serve(*given, **{**named, "limits": limits})

    server.serve = narrowed
    divide = Limits.divided
    Limits.divided = lambda _, workers: divide(limits, workers)  # type: ignore[method-assign, assignment]


def _compute_as(fingerprint: str) -> None:
    for module in (commits, plan, hub_repos):
        module.fingerprint = lambda: fingerprint  # type: ignore[attr-defined]


def main() -> None:
    """Run the command line of the registry."""
    from registry.cli.main import main as run

    if given := os.environ.get("FAULT_LIMITS"):
        _narrow(Limits(**json.loads(given)))
    if numerics := os.environ.get("FAULT_NUMERICS"):
        _compute_as(numerics)
    run()


if __name__ == "__main__":
    main()
