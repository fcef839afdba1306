"""Ends servers when the last test process that uses them is gone, however it went. Started by `servers_home`.

    python servers_keeper.py LOCK FOLDER

Every test process that uses the servers of FOLDER holds a shared lock on the file LOCK, which the system takes back
when a process ends, also when it is killed. This process waits for the lock for itself alone; then nobody is left.
It ends the servers that FOLDER/pids names and removes FOLDER. Run by its path: it must start in no time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

GRACE = 5.0  # seconds until a server that was told to end is killed


def end_servers(folder: Path) -> None:
    """Send each noted process the signal that ends it at once, and kill what is still there after a while."""
    import psutil  # only now: most of this process's life is waiting

    running: list[psutil.Process] = []
    for note in (folder / "pids").iterdir():
        born, number = note.read_text().split()
        try:
            process = psutil.Process(int(note.name))
            if str(process.create_time()) == born:  # else the number was given to somebody else
                process.send_signal(signal.Signals(int(number)))
                running.append(process)
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + GRACE
    while running and time.monotonic() < deadline:
        running = [process for process in running if is_there(process)]
        time.sleep(0.01)
    for process in running:
        process.kill()


def is_there(process: psutil.Process) -> bool:
    """Whether a process has not ended, waited for by its parent or not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main(lock: str, folder: str) -> None:
    """Wait in the background: the caller's wait for this process ends at once."""
    if os.fork():
        return
    os.setsid()
    with Path(lock).open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end_servers(Path(folder))
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
