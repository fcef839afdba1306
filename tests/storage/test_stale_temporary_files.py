"""Litter in a folder of many users: everybody clears their own, whatever state its writer died in."""

from __future__ import annotations

import os
import stat

import pytest

from registry.storage.file_objects import start_file
from registry.storage.filesystem import FilesystemDriver
from tests.folders.nobody import as_nobody, public_folder


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
