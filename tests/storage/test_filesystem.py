"""What only a file system does: links, modes, temporary files, a full disk, a folder that can't be written.

Litter in a folder of many users: everybody clears their own, whatever state its writer died in.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotAllowedError, UnavailableError, UsageError
from registry.folders.local_files import unusable
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import Commit, new_blob_key
from registry.storage.file_objects import start_file
from registry.storage.filesystem import FilesystemDriver
from tests.folders.nobody import as_nobody, public_folder

BLOCK = 256 * 1024

StartScript = Callable[..., "subprocess.Popen[str]"]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's file of two blocks and a bit."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(noise(2 * BLOCK + 5))
    file.chmod(0o640)
    return file


def test_nothing_is_made_by_reading(folder_store: BlobStore, root: Path) -> None:
    assert folder_store.size(new_blob_key(sha256_digest(b""))) is None
    assert folder_store.clear_litter() == 0
    assert folder_store.clear_staging(datetime.now(UTC)) == 0
    assert list(folder_store.objects()) == []
    folder_store.ping()
    assert not root.exists()


def test_the_layout_on_disk(folder_store: BlobStore, root: Path) -> None:
    small, large = folder_store.put_bytes(b"small"), folder_store.put_bytes(noise(BLOCK + 1))
    names = [(blob.digest.removeprefix("sha256:"), blob.key[-8:]) for blob in (small, large)]
    assert all(re.fullmatch("[0-9a-f]{8}", random_part) for _, random_part in names)
    name, random_part = names[1]
    assert set(files_below(root)) == {
        *(f"blobs/sha256/{each[:2]}/{each}-{suffix}" for each, suffix in names),
        f"blocks/sha256/{name[:2]}/{name}-{random_part}",
    }
    assert (root / "blocks/sha256" / name[:2] / f"{name}-{random_part}").stat().st_size == 2 * 32


def test_blobs_are_read_only_files_with_one_name(folder_store: BlobStore, root: Path) -> None:
    before = os.umask(0o027)
    try:
        blob = folder_store.put_bytes(b"data")
    finally:
        os.umask(before)
    status = (root / blob.key).stat()
    assert stat.S_IMODE(status.st_mode) == 0o440
    assert status.st_nlink == 1


def test_a_linked_file_is_the_users_own_and_is_left_as_it_was(folder_store: BlobStore, root: Path, model: Path) -> None:
    data = model.read_bytes()
    blob = folder_store.keep(model, sha256_digest(data), link=True)
    stored = root / blob.key
    assert (blob.stored, blob.stored_by) == (0, "link")
    assert stored.samefile(model)
    assert stat.S_IMODE(model.stat().st_mode) == 0o640
    assert files_below(root / "tmp") == []
    assert folder_store.keep(model, blob.digest, link=True, known=blob).stored_by == "none"
    with folder_store.open(blob) as reader:
        model.write_bytes(bytes(len(data)))
        with pytest.raises(IntegrityError, match="not those that were stored"):
            reader.read_into(0, memoryview(bytearray(10)))


def test_a_linked_file_is_as_young_as_its_link(folder_store: BlobStore, model: Path) -> None:
    """Else a collector would take it for something that was left long ago."""
    os.utime(model, (1_000_000_000, 1_000_000_000))
    before = datetime.now(UTC) - timedelta(seconds=1)
    blob = folder_store.keep(model, sha256_digest(model.read_bytes()), link=True)
    assert {one.key: one.modified > before for one in folder_store.objects()}[blob.key]


def test_the_target_of_a_symbolic_link_is_linked(
    folder_store: BlobStore, root: Path, model: Path, tmp_path: Path
) -> None:
    name = tmp_path / "name.safetensors"
    name.symlink_to(model)
    blob = folder_store.keep(name, sha256_digest(model.read_bytes()), link=True)
    assert not (root / blob.key).is_symlink()
    assert (root / blob.key).samefile(model)


def test_a_linked_file_that_changed_leaves_nothing_and_is_not_deleted(
    folder_store: BlobStore, root: Path, model: Path
) -> None:
    with pytest.raises(IntegrityError, match="changed while it was being added"):
        folder_store.keep(model, sha256_digest(b"what it was before"), link=True)
    assert files_below(root) == []
    assert model.stat().st_size == 2 * BLOCK + 5
    assert model.stat().st_nlink == 1


def test_a_damaged_linked_blob_is_mended_without_touching_the_file(
    folder_store: BlobStore, root: Path, model: Path, tmp_path: Path
) -> None:
    data = model.read_bytes()
    blob = folder_store.keep(model, sha256_digest(data), link=True)
    model.write_bytes(b"trained on")
    copy = tmp_path / "copy"
    copy.write_bytes(data)
    again = folder_store.keep(copy, blob.digest, known=blob)
    assert again.stored_by in {"copy", "reflink"}
    assert (root / again.key).read_bytes() == data
    assert model.read_bytes() == b"trained on"


def test_a_link_to_another_file_system_is_a_usage_error(folder_store: BlobStore, root: Path) -> None:
    """``/proc`` is another file system everywhere."""
    file = Path("/proc/self/status")
    with pytest.raises(UsageError, match="same file system") as caught:
        folder_store.keep(file, sha256_digest(b""), link=True)
    assert str(root) in str(caught.value)
    assert files_below(root) == []


def test_litter_of_the_dead_is_cleared_and_the_rest_is_left(folder_store: BlobStore, root: Path, model: Path) -> None:
    folder_store.put_bytes(b"makes the folders")
    dead = root / "tmp" / ("0" * 32 + ".part")
    guard = root / "tmp" / ("1" * 32 + ".part")
    other = root / "tmp" / "notes.txt"
    for path in (dead, guard, other):
        path.write_bytes(b"x")
    os.link(model, guard.with_suffix(".link"))
    with folder_store.stage(model) as staged:
        assert folder_store.clear_litter() == 2
        assert staged.commit().stored_by == "copy"
    assert files_below(root / "tmp") == ["notes.txt"]
    assert model.read_bytes() == noise(2 * BLOCK + 5)


def test_a_temporary_file_that_is_locked_by_anyone_is_left(folder_store: BlobStore, root: Path) -> None:
    folder_store.put_bytes(b"makes the folders")
    part = root / "tmp" / ("0" * 32 + ".part")
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert folder_store.clear_litter() == 0
    assert folder_store.clear_litter() == 1


def test_clearing_all_the_time_never_hurts_a_writer(
    folder_store: BlobStore, root: Path, start_script: StartScript
) -> None:
    """The race between making a temporary file and locking it."""
    cleaner = start_script(
        "import sys; from pathlib import Path; from registry.storage.staging import clear_litter\n"
        "print('ready', flush=True)\n"
        "while True: clear_litter(Path(sys.argv[1]) / 'tmp')",
        root,
    )
    assert cleaner.stdout is not None
    assert cleaner.stdout.readline() == "ready\n"
    blobs = [folder_store.put_bytes(f"blob {number}".encode()) for number in range(150)]
    assert cleaner.poll() is None
    assert all(folder_store.size(blob.key) == blob.size for blob in blobs)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of one MiB on ``folder``; skips where this user may not mount."""
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root; the file size limit is tested instead")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here; the file size limit is tested instead")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def assert_full(store: BlobStore, root: Path, model: Path) -> None:
    for action in (
        lambda: store.stage(model),
        lambda: store.keep(model, sha256_digest(model.read_bytes())),
        lambda: store.put_bytes(model.read_bytes()),
    ):
        with pytest.raises(UnavailableError) as caught:
            action()
        assert caught.value.code == "disk_full"
        assert str(root) in str(caught.value)
        assert files_below(root) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    model = tmp_path / "model"
    model.write_bytes(noise(9 * BLOCK))
    with small_disk(root):
        store = BlobStore(FilesystemDriver(root))
        assert_full(store, root, model)
        assert store.put_bytes(b"still works").stored_by == "copy"


def test_a_file_size_limit_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, root: Path, start_script: StartScript
) -> None:
    """A write that the kernel refuses half-way, which any user can have."""
    model = tmp_path / "model"
    model.write_bytes(noise(9 * BLOCK))
    process = start_script(
        "import resource, sys; from pathlib import Path\n"
        "from registry.storage.blobs import BlobStore; from registry.storage.filesystem import FilesystemDriver\n"
        "from registry.errors import UnavailableError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "store = BlobStore(FilesystemDriver(Path(sys.argv[1])))\n"
        "try: store.stage(Path(sys.argv[2]))\n"
        "except UnavailableError as error: print(error.code, error)\n"
        "print(store.put_bytes(b'still works').stored_by)",
        root,
        model,
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith("disk_full A file is larger")
    assert str(root) in out
    assert out.endswith("copy\n")
    assert len(files_below(root)) == 1


READ_ONLY_SCRIPT = """
import os, sys
from pathlib import Path
from registry.errors import NotAllowedError
from registry.storage.blobs import BlobStore
from registry.storage.driver import Commit
from registry.storage.filesystem import FilesystemDriver
from registry.digest import BlobRef

os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)  # root may write anywhere
store = BlobStore(FilesystemDriver(Path()))
for action in (lambda: store.put_bytes(b"new"), lambda: BlobStore(FilesystemDriver(Path("deeper"))).put_bytes(b"new")):
    try:
        action()
    except NotAllowedError as error:
        print(error.code, error)
digest, blocks_digest, key = sys.argv[2:]
try:
    store.ping()
except NotAllowedError as error:
    print(error.code, error)
with store.open(BlobRef(digest, 3, blocks_digest, key)) as reader:
    buffer = bytearray(3)
    reader.read_into(0, memoryview(buffer))
print(buffer.decode(), store.clear_litter())
"""


def test_a_read_only_folder_is_one_sentence_and_can_be_read(
    folder_store: BlobStore, root: Path, start_script: StartScript
) -> None:
    blob: StoredBlob = folder_store.put_bytes(b"old")
    for folder in (root, root / "tmp"):
        folder.chmod(0o555)
    try:
        process = start_script(READ_ONLY_SCRIPT, root, blob.digest, blob.blocks_digest, blob.key)
        out, err = process.communicate()
    finally:
        for folder in (root, root / "tmp"):
            folder.chmod(0o755)
    assert (process.returncode, err) == (0, "")
    first, second, pinged, third = out.splitlines()
    assert pinged.startswith("read_only The folder . can't be")
    assert first.startswith("read_only The folder . can't be")
    assert second.startswith("read_only The folder deeper can't be")
    assert third == "old 0"
    assert len(files_below(root)) == 1


def test_a_commit_fails_with_any_of_its_syncs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each file and of each folder: what may not be on the medium is not told as stored."""
    sync, sync_data = os.fsync, os.fdatasync

    def fails_at(which: int) -> int | None:
        """The number of syncs of a commit of three objects; None: it failed."""
        calls = itertools.count()

        def broken_once(real: Callable[[int], None], fd: int) -> None:
            if next(calls) == which:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)

        driver = FilesystemDriver(root / str(which))
        with ExitStack() as stack:
            writers = [stack.enter_context(driver.writer()) for _ in range(3)]
            for writer in writers:
                writer.write(b"data")
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", partial(broken_once, sync))
                patch.setattr(os, "fdatasync", partial(broken_once, sync_data))
                try:
                    driver.commit([Commit(writer, f"blobs/{at}/data") for at, writer in enumerate(writers)])
                except UnavailableError:
                    return None
        return next(calls)

    total = fails_at(-1)
    assert total is not None
    assert total >= 3 + 3, "files and their folders"
    assert [fails_at(which) for which in range(total)] == [None] * total


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, UnavailableError, "disk_full"),
        (errno.EDQUOT, UnavailableError, "disk_full"),
        (errno.EROFS, NotAllowedError, "read_only"),
        (errno.EACCES, NotAllowedError, "read_only"),
        (errno.EPERM, NotAllowedError, "read_only"),
        (errno.EIO, UnavailableError, "unavailable"),
        (errno.ESTALE, UnavailableError, "unavailable"),
    ],
)
def test_every_refusal_of_the_system_names_the_folder(number: int, kind: type[Exception], code: str) -> None:
    error = unusable(Path("some/folder"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert error.code == code
    assert "some/folder" in str(error)
    assert os.strerror(number) in str(error)


def test_what_a_writer_left_between_two_names_is_cleared_by_its_user() -> None:
    """It is read-only then, and only root may open such a file for writing."""
    with public_folder() as place:
        place.chmod(0o777)
        with as_nobody():
            root = place / "store"
            unnamed, named = start_file(root), start_file(root)
            for writer in (unnamed, named):
                writer.write(b"data")
                writer.sync()
            named.move(root / "object")
            driver = FilesystemDriver(root)
            assert driver.clear_litter() == 0, "a live writer's file was taken for litter"
            for writer in (unnamed, named):
                os.close(writer._temporary.fd)  # what the kernel does when the process is killed
            assert driver.clear_litter() == 2
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["object"]
        assert stat.S_IMODE((root / "object").stat().st_mode) == 0o444
        assert (root / "object").read_bytes() == b"data"


def test_what_another_user_left_is_theirs() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    with public_folder() as root:
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o777)
        part = root / "tmp" / ("0" * 32 + ".part")
        part.write_bytes(b"x")
        part.chmod(0o444)
        with as_nobody():
            assert FilesystemDriver(root).clear_litter() == 0
        assert part.exists()
