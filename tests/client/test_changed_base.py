"""Base files of this machine that somebody writes to while a model is merged on them: no wrong byte is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import IntegrityError
from tests.client.conftest import Team
from tests.kit import Base, plain_base, write_adapter

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (256, 512), "b.weight": (512, 256)})
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a", "b"], r=2), "net/one")
    return made


class At:
    """Does something once, when work of that name begins, or has come to its end."""

    def __init__(self, words: str, act: Callable[[], object], *, end: bool = False) -> None:
        self._words, self._act, self._end = words, act, end
        self._left: int | None = None
        self.done = False

    def begin(self, what: str, total: int) -> None:
        self._left = total if what.startswith(self._words) else None
        if self._left is not None and not self._end:
            self._once()

    def advance(self, amount: int) -> None:
        if self._left is not None:
            self._left -= amount
            if not self._left and self._end:
                self._once()

    def _once(self) -> None:
        if not self.done:
            self.done = True
            self._act()


def spoilt(file: Path) -> bytes:
    """Other weights of the same size."""
    data = bytearray(file.read_bytes())
    data[-200_000::2] = bytes(byte ^ 0x40 for byte in data[-200_000::2])
    return bytes(data)


def over(file: Path) -> None:
    """Overwrite it in place."""
    data = spoilt(file)
    with file.open("r+b") as stream:
        stream.write(data)


def instead(file: Path) -> None:
    """Give its name to another file."""
    other = file.with_name("other")
    other.write_bytes(spoilt(file))
    other.replace(file)


@pytest.mark.parametrize(
    ("words", "end", "change"),
    [
        ("Merging", False, over),
        ("Merging", True, over),  # after the last byte was written
        ("Checking the base", True, over),
        ("Checking the base", True, instead),
    ],
    ids=["before-reading", "after-reading", "after-the-check", "another-file-after-the-check"],
)
def test_what_was_merged_on_a_changed_base_is_not_kept(
    team: Team, base: Base, tmp_path: Path, words: str, end: bool, change: Callable[[Path], None]
) -> None:
    client = team.client()
    at = At(words, lambda: change(base.folder / WEIGHTS), end=end)
    with pytest.raises(IntegrityError, match=r"model\.safetensors was changed after it was checked") as wrong:
        client.fetch("net/one", tmp_path / "out" / "it", kind="merged", base_dir=base.folder, progress=at)
    assert at.done
    assert wrong.value.code == "wrong_base"
    assert list((tmp_path / "out").glob("*")) == []
    assert list((tmp_path / "out").glob(".*")) == []
    sent = client.fetch("net/one", tmp_path / "sent", kind="merged")  # the folder is no copy of the base any more
    assert sent.notices == ()
    with team.local.artifact("net/one", kind="merged") as right:
        assert (tmp_path / "sent" / WEIGHTS).read_bytes() == right.files[WEIGHTS].read()


@pytest.mark.parametrize("remove", [False, True], ids=["replaced", "removed"])
def test_the_file_that_was_checked_is_read_whatever_its_name_means_meanwhile(
    team: Team, base: Base, tmp_path: Path, remove: bool
) -> None:
    client = team.client()
    at = At("Merging", lambda: shutil.rmtree(base.folder) if remove else instead(base.folder / WEIGHTS))
    client.fetch("net/one", tmp_path / "out", kind="merged", base_dir=base.folder, progress=at)
    assert at.done
    with team.local.artifact("net/one", kind="merged") as right:
        assert (tmp_path / "out" / WEIGHTS).read_bytes() == right.files[WEIGHTS].read()


def test_what_is_there_already_needs_no_base(team: Team, base: Base) -> None:
    client = team.client()
    first = client.fetch("net/one", kind="merged", base_dir=base.folder)
    at = At("Checking existing files", lambda: over(base.folder / WEIGHTS))
    again = client.fetch("net/one", kind="merged", base_dir=base.folder, progress=at)
    assert at.done
    assert (again.fresh, again.folder, again.files) == (False, first.folder, first.files)
