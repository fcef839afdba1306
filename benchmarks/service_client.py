"""One upload or download by the registry's client, in a process of its own; prints a JSON line of seconds by stage."""

from __future__ import annotations

import json
import sys
import time

from registry import connect


class Stages:
    """When the stages of a piece of work began, and when they last moved on (`registry.progress.Progress`).

    What the service does after the last byte has arrived is no stage of its own where it answers at once.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = [("before", time.perf_counter())]
        self._moved = self._marks[0][1]
        self._cpu = time.process_time()

    def begin(self, what: str, total: int) -> None:
        """Note the end of a stage and the beginning of another."""
        del total
        self._end_stage()
        self._marks.append((what, time.perf_counter()))
        self._moved = 0.0

    def advance(self, amount: int) -> None:
        """Note that the stage has moved on."""
        del amount
        self._moved = time.perf_counter()

    def _end_stage(self) -> None:
        if self._moved > self._marks[-1][1]:
            self._marks.append((f"after {self._marks[-1][0]}", self._moved))

    def report(self) -> None:
        """Print the seconds of the whole and of each stage."""
        ended, cpu = time.perf_counter(), time.process_time() - self._cpu
        self._end_stage()
        ends = [*(at for _, at in self._marks[1:]), ended]
        spent: dict[str, float] = {}
        for (name, at), end in zip(self._marks, ends, strict=True):
            spent[name] = spent.get(name, 0.0) + end - at
        print(json.dumps({"seconds": ended - self._marks[0][1], "cpu": cpu, **spent}))


def upload(url: str, token: str, folder: str, path: str) -> None:
    """Publish a folder."""
    remote = connect(url, token)
    remote.whoami()
    stages = Stages()
    answer = remote.publish(folder, path, progress=stages)
    stages.report()
    if not answer.created:
        raise SystemExit("The adapter was there already, so nothing was measured.")


def download(url: str, token: str, ref: str, out: str) -> None:
    """Fetch what was published."""
    remote = connect(url, token)
    remote.whoami()
    stages = Stages()
    remote.fetch(ref, out, kind="published", progress=stages)
    stages.report()


if __name__ == "__main__":
    {"upload": upload, "download": download}[sys.argv[1]](*sys.argv[2:])
