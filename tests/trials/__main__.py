"""Run the trials for long. Every failure says the seed that it was drawn with."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from registry.catalogue.database.database import Database
from tests.kit.servers import Postgres, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.kit.shim import Shim
from tests.trials.processes import faults, kills, races
from tests.trials.requests import grow, held_against
from tests.trials.scene import Scene, Team


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
ON_TEAMS: Final = ("kills", "races", "faults")


@contextmanager
def of_team(root: Path) -> Iterator[tuple[Scene, Shim]]:
    """A scene on a PostgreSQL and an S3 server of its own, and the way to its bucket."""
    home = Home.of_process(root)
    postgres, s3 = Postgres.started(home), S3Server.started(home)
    try:
        place, database = s3.place(), postgres.database()
        catalogue = Database(database)
        catalogue.prepare()
        catalogue.dispose()
        with Shim(place.endpoint) as store:
            os.environ.update(place.environ | {"AWS_ENDPOINT_URL": store.url})
            yield Scene.made(root, Team(database, place.url)), store
    finally:
        s3.close()
        postgres.close()
        home.leave()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.trials", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS, "faults"], help="which; all of them by default")
    parser.add_argument("--seconds", type=float, default=600, help="for each trial (600)")
    parser.add_argument("--team", action="store_true", help="kills and races on PostgreSQL and S3, and faults of S3")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    asked = parser.parse_args()
    if "faults" in asked.trials and not asked.team:
        parser.error("faults are those of a store on the network: --team")
    for name in asked.trials or (ON_TEAMS if asked.team else TRIALS):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}, seed {asked.seed}, {asked.seconds:g} s", flush=True)
            # A service gets its settings as variables; the trials must not read those of the person who runs them.
            for variable in [key for key in os.environ if key.startswith("REGISTRY_")]:
                del os.environ[variable]
            if asked.team:
                with of_team(Path(folder)) as (scene, store):
                    if name == "faults":
                        done = faults(scene, store, asked.seed, asked.seconds)
                    else:
                        done = TRIALS[name](scene, asked.seed, asked.seconds)
            else:
                done = TRIALS[name](Scene.made(Path(folder)), asked.seed, asked.seconds)
            print(f"{name}: {done}, nothing lost, nothing wrong", flush=True)


if __name__ == "__main__":
    main()
