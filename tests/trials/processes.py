"""Trials with processes: some are killed at random moments, others race."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.services.publishing import publish  # noqa: F401 - before the forks: they take seconds
from tests.kit.shim import Fault, Shim, flip_first_byte
from tests.trials.actions import LOST_RACES, act
from tests.trials.scene import NAMES, Scene

RACERS = 4


def _forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork of this process; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        if code:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)  # never on into what the parent does next


def kills(scene: Scene, seed: int, seconds: float) -> int:
    """Kill processes at random moments of random actions; how many were killed.

    After each one the registry is whole, and what has a name is complete.
    """
    draw, ends, killed = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        child = _forked(partial(_act_on, scene, random.Random(draw.random())))
        time.sleep(draw.uniform(0.02, 1.5))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"seed {seed}: an action failed before it was killed"
        killed += 1
        scene.check()
        check_folders(scene)
    return killed


def _act_on(scene: Scene, draw: random.Random) -> None:
    while True:
        act(scene, draw)


def races(scene: Scene, seed: int, seconds: float) -> int:
    """Let several processes act at once; how many actions there were."""
    ends = time.monotonic() + seconds
    counts = [scene.root / f"count-{number}" for number in range(RACERS)]

    def race(number: int) -> None:
        draw, done = random.Random(seed * RACERS + number), 0
        while time.monotonic() < ends:
            act(scene, draw)
            done += 1
        counts[number].write_text(str(done))

    children = [_forked(partial(race, number)) for number in range(RACERS)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * RACERS, f"seed {seed}: {codes}"
    scene.check()
    check_folders(scene)
    return sum(int(count.read_text()) for count in counts)


def faults(scene: Scene, store: Shim, seed: int, seconds: float) -> int:
    """Let the way to a team's bucket fail in random ways under random actions; how many requests it failed.

    What can't be done is refused as a fault of the store, and never as damage or as a mistake of the user. Then all is
    there and whole.
    """
    draw, ends, struck = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        fault = _drawn(draw)
        given = fault.times or 0
        store.faults[:] = [fault]
        act(scene, draw, LOST_RACES | {"unavailable"})
        struck += given - (fault.times or 0)
        if draw.random() < 0.1:
            store.faults.clear()
            scene.check()
            check_folders(scene)
    store.faults.clear()
    scene.check()
    check_folders(scene)
    return struck


def _drawn(draw: random.Random) -> Fault:
    """A fault of some requests, for a part of their answers, their bodies, or all of them."""

    def flip(data: bytes) -> bytes:
        at = draw.randrange(8 * len(data)) if data else 0
        return bytes([*data[: at // 8], data[at // 8] ^ 1 << at % 8, *data[at // 8 + 1 :]]) if data else data

    kinds: list[dict[str, Any]] = [
        {"method": "GET", "target": OBJECTS, "change_answer": flip},
        {"method": "GET", "target": OBJECTS, "change_answer": flip_first_byte},
        {"method": "GET", "target": OBJECTS, "cut_answer": draw.randrange(2000)},
        {"method": "GET", "status": 404},
        {"method": "HEAD", "status": 404},
        {"method": "PUT", "change_request": flip_first_byte},
        {"method": "PUT", "status": 200, "headers": {"ETag": '"1"'}},
        {"method": "POST", "target": "uploadId=", "status": 200, "body": JOINED, "headers": XML},
        {"status": 503},
        {"lose_answer": True},
    ]
    return Fault(**draw.choice(kinds), skip=draw.randrange(6), times=draw.choice((1, 2, 20)))


OBJECTS: Final = r"/(blobs|blocks|staging|incoming)/[^?]*$"
XML: Final = {"Content-Type": "application/xml"}
JOINED: Final = b"<CompleteMultipartUploadResult><ETag>&quot;1-2&quot;</ETag></CompleteMultipartUploadResult>"


def check_folders(scene: Scene) -> None:
    """A fetched folder that has its name is what its receipt says."""
    for out in (scene.root / "out" / name for name in NAMES):
        if out.exists():
            assert _is_whole(out), out


def _is_whole(out: Path) -> bool:
    receipt = read_receipt(out / RECEIPT)
    return all(blake3((out / file.path).read_bytes()).hexdigest() == file.blake3 for file in receipt.files)
