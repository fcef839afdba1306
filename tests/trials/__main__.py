"""Run the trials for long. Every failure says the seed that it was drawn with."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.trials.processes import kills, races
from tests.trials.requests import grow, held_against
from tests.trials.scene import Scene


def requests(scene: Scene, seed: int, seconds: float) -> int:
    """Against a service that is a process of its own."""
    references, home = grow(scene), Home.of_process(scene.root)
    try:
        service = ServiceProcess.started(home, {"REGISTRY_URL": str(scene.root / "registry")}, ["--port", "0"])
        try:
            return held_against(scene, references, service.url, seed, seconds)
        finally:
            service.close()
    finally:
        home.leave()


TRIALS: Final[Mapping[str, Callable[[Scene, int, float], int]]] = {"kills": kills, "races": races, "requests": requests}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS], help="which; all of them by default")
    parser.add_argument("--seconds", type=float, default=600, help="for each trial (600)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    asked = parser.parse_args()
    for name in asked.trials or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}, seed {asked.seed}, {asked.seconds:g} s", flush=True)
            # A service gets its settings as variables; the trials must not read those of the person who runs them.
            for variable in [key for key in os.environ if key.startswith("REGISTRY_")]:
                del os.environ[variable]
            done = TRIALS[name](Scene.made(Path(folder)), asked.seed, asked.seconds)
            print(f"{name}: {done}, nothing lost, nothing wrong", flush=True)


if __name__ == "__main__":
    main()
