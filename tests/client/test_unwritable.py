"""A cache that can't be written: what only serves a later run is left out, and nothing half written stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.client import fetch
from registry.client.download import Journal
from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache
from tests.client.conftest import Team
from tests.folders.nobody import as_nobody, public_folder
from tests.kit import plain_base, write_adapter
from tests.kit.serving import QUICK
from tests.root import ROOT


def test_a_download_into_another_folder_needs_no_cache(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_WORTH_RESUMING", 0)
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    team.local.add_base("net", base.folder)
    team.local.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "net/one")
    (tmp_path / "file").write_text("where the cache should be")
    client = RemoteRegistry(team.url, cache=FetchCache(tmp_path / "file" / "cache"), retry=QUICK)
    assert client.fetch("net/one", tmp_path / "out", kind="published").fresh
    assert client.verify(tmp_path / "out").equal
    client.close()


def test_notes_of_another_user_are_done_without() -> None:
    with public_folder() as room:
        place = room / "out"
        interrupted = Journal(room, "sha256:1", place)
        interrupted.__enter__().note("a", 0, memoryview(b"four"))
        interrupted.__exit__(KeyboardInterrupt)
        (notes,) = room.iterdir()
        before = notes.read_bytes()
        notes.chmod(0)
        room.chmod(0o555)
        with as_nobody(), Journal(room, "sha256:1", place) as journal:
            journal.note("a", 0, memoryview(b"four"))
            assert not journal.find("a", 0, memoryview(bytearray(4)))
        notes.chmod(0o600)
        assert notes.read_bytes() == before


FULL = """
import resource, sys
from pathlib import Path
from registry.client.fetch import BaseFolders
folders = BaseFolders(Path(sys.argv[1]))
folders.remember("sha256:1", Path("here"))
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))  # as on a disk that has no more space for it
folders.remember("sha256:2", Path("there"))
print(folders.empty)
"""


def test_a_full_disk_leaves_what_was_remembered_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
    assert [file.name for file in tmp_path.iterdir()] == [".base-folders.json"]
