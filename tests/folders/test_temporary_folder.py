"""Temporary folders: closed to other users, and gone at the latest with the next run, however the last one ended."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.folders.staging import temporary_folder

_FILLS_ONE = """
from registry.folders.staging import temporary_folder
with temporary_folder("registry-test") as place:
    (place / "weights").write_bytes(b"0123")
    print(place, flush=True)
    input()
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once a process
    return tmp_path


def test_what_a_killed_run_left_goes_with_the_next_and_what_is_in_use_stays(room: Path) -> None:
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", _FILLS_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    with killed, alive:
        places = [Path(one.stdout.readline().strip()) for one in (killed, alive) if one.stdout is not None]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert [(place / "weights").exists() for place in places] == [True, True]
        with temporary_folder("registry-test") as mine:
            assert (list(mine.iterdir()), mine.parent.parent) == ([], room)
            assert [place.exists() for place in places] == [False, True]
        alive.communicate("\n")
    assert list(room.iterdir()) == []


def test_many_at_once_under_one_name_never_clear_each_others_while_it_is_made(room: Path) -> None:
    def fill(number: int) -> None:
        with temporary_folder("registry-test") as place:
            (place / "weights").write_text(str(number))
            assert [(file.name, file.read_text()) for file in place.iterdir()] == [("weights", str(number))]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(400)))
    assert list(room.iterdir()) == []


@pytest.mark.usefixtures("room")
def test_nobody_else_reads_it() -> None:
    before = os.umask(0o022)
    try:
        with temporary_folder("registry-test") as place:
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
    finally:
        os.umask(before)
