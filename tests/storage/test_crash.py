"""Writers that are killed, and many at once: what is visible is whole, and litter goes only when its writer has."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from registry.digest import BlobRef
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import BLOBS, BLOCKS, blob_key_of, digest_of
from registry.storage.filesystem import FilesystemDriver
from registry.storage.memory import MemoryDriver

BLOCK = 256 * 1024

StartScript = Callable[..., "subprocess.Popen[str]"]

IMPORTS = """
import os, signal, sys
from pathlib import Path
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver
root, file = Path(sys.argv[1]), Path(sys.argv[2])
store = BlobStore(FilesystemDriver(root))
"""

STOPS_WHILE_STAGING = (
    IMPORTS
    + """
def watch(offset, chunk):
    if offset:
        print("staging", flush=True)
        sys.stdin.readline()
with store.stage(file, watch=watch) as staged:
    print(staged.commit().stored_by)
"""
)

DIES_AT_EACH_STEP = (
    IMPORTS
    + """
# Every change that Python makes to a file system is announced to audit hooks just before it happens. A forked
# process kills itself at its n-th change, for n = 1, 2, ... until one lives to the end.
CHANGES = {"os.mkdir", "os.link", "os.rename", "os.remove", "open"}
def attempt(number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES and str(root) in str(arguments):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    way = sys.argv[3]
    if way == "stage":
        with store.stage(file) as staged:
            staged.commit()
    else:
        store.keep(file, sys.argv[4], link=way == "link")
    os._exit(0)

number = 0
while True:
    number += 1
    child = os.fork()
    if child == 0:
        attempt(number)
    status = os.waitpid(child, 0)[1]
    print(number, "killed" if os.WIFSIGNALED(status) else "done", flush=True)
    sys.stdin.readline()
    if not os.WIFSIGNALED(status):
        break
"""
)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def places(root: Path, blob: StoredBlob) -> list[BlobRef]:
    """All blobs in the folder, which are to be whole and the same as ``blob``."""
    return [replace(blob, key=one.key) for one in FilesystemDriver(root).objects(BLOBS)]


def temporary_files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tmp").iterdir())


def test_a_killed_writer_leaves_no_object_and_its_litter_is_cleared(
    folder_store: BlobStore, root: Path, tmp_path: Path, start_script: StartScript
) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(9 * BLOCK))
    writer = start_script(STOPS_WHILE_STAGING, root, file)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "staging\n"
    assert folder_store.clear_litter() == 0, "a live writer's file was taken for litter"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(temporary_files(root)) == 1
    assert list(FilesystemDriver(root).objects("")) == []
    assert folder_store.clear_litter() == 1
    assert temporary_files(root) == []


def test_a_live_writer_survives_clearing(
    folder_store: BlobStore, root: Path, tmp_path: Path, start_script: StartScript
) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(9 * BLOCK))
    writer = start_script(STOPS_WHILE_STAGING, root, file)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "staging\n"
    assert folder_store.clear_litter() == 0
    out, err = writer.communicate("\n\n\n\n")
    assert (writer.returncode, err) == (0, "")
    assert out.endswith("copy\n")
    assert temporary_files(root) == []
    [place] = places(root, BlobStore(MemoryDriver()).put_bytes(noise(9 * BLOCK)))
    folder_store.check(place)


def test_killed_at_any_step_the_store_stays_whole(
    folder_store: BlobStore, root: Path, tmp_path: Path, start_script: StartScript
) -> None:
    content = noise(5 * BLOCK + 1)
    for way in ("stage", "keep", "link"):
        file = tmp_path / f"{way}.bin"
        file.write_bytes(content)
        blob = BlobStore(FilesystemDriver(tmp_path / "other")).put_bytes(content)
        process = start_script(DIES_AT_EACH_STEP, root, file, way, blob.digest)
        assert process.stdout is not None
        assert process.stdin is not None
        killed = 0
        while (line := process.stdout.readline().split())[1:] == ["killed"]:
            killed += 1
            for place in places(root, blob):
                folder_store.check(place)
            folder_store.clear_litter()
            if (root / "tmp").exists():
                assert not any((root / "tmp").iterdir())
            with folder_store.stage(file) as staged:
                again = staged.commit()
            assert again.digest == blob.digest
            folder_store.check(again)
            for one in list(folder_store.objects()):
                if blob_key_of(one.key) != again.key:
                    folder_store.delete(one.key)
            folder_store.check(again)
            assert file.read_bytes() == content
            shutil.rmtree(root)
            process.stdin.write("\n")
            process.stdin.flush()
        out, err = process.communicate("\n")
        assert (line[1:], out, err) == (["done"], "", "")
        assert killed >= 12, "the hook saw too little for this test to mean anything"
        [place] = places(root, blob)
        folder_store.check(place)
        shutil.rmtree(root)


def test_eight_processes_store_the_same_blob_at_once(
    folder_store: BlobStore, root: Path, tmp_path: Path, start_script: StartScript
) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(6 * BLOCK + 3))
    script = IMPORTS + "sys.stdin.readline()\nwith store.stage(file) as staged:\n    print(staged.commit().key)"
    writers = [start_script(script, root, file) for _ in range(8)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    ends = [writer.communicate() for writer in writers]
    assert [(writer.returncode, err) for writer, (_, err) in zip(writers, ends, strict=True)] == [(0, "")] * 8
    assert temporary_files(root) == []
    blob = BlobStore(MemoryDriver()).put_bytes(noise(6 * BLOCK + 3))
    made = places(root, blob)
    assert sorted(out.strip() for out, _ in ends) == [place.key for place in made]
    assert len(set(made)) == 8
    for place in made:
        assert digest_of(place.key) == blob.digest
        folder_store.check(place)
    assert len(list(FilesystemDriver(root).objects(BLOCKS))) == 8
