"""Walks through a heap of folders: what each is, which checkpoints belong to which run, and what can't be read.

No link is followed: files of a cache of the Hub's client are links into its blobs, which `registry.folders.scan` knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final, Protocol

from registry.errors import RegistryError
from registry.folders.errors import reason
from registry.folders.foreign import is_archive, is_unread_archive, no_folder
from registry.folders.heap.kinds import CHECKPOINT, HUB_REPO, NOT_ENTERED, Kind, holds_model_too, kind_of

DEPTH: Final = 16
"""Folders below each other that are looked into."""
_MOST_STATE: Final = 64 << 20
_NAMED: Final = 4  # checkpoints of one run that are named one by one


class Archives(Protocol):
    """What lets a walk go through archives: `registry.folders.archives.Opened`."""

    def folder(self, place: str | PathLike[str]) -> Path:
        """A path that may lead to or into an archive as a folder."""

    def names(self, archive: Path) -> list[str]:
        """The names of all files in an archive."""

    def named(self, place: Path) -> Path:
        """A path as the user knows it."""

    def is_inside(self, place: Path) -> bool:
        """Whether it was unpacked."""


@dataclass(frozen=True)
class Found:
    """A folder of a heap; or a file, where weights lie in it alone."""

    folder: Path
    place: str  # "./" and the path below the heap
    kind: Kind
    run: str | None = None  # of a checkpoint: the place of its run
    repo: str | None = None  # ORG/NAME, of a snapshot in a cache of the Hub
    with_model: bool = False  # an adapter that lies beside a whole model


@dataclass(frozen=True)
class Left:
    """A folder or an archive that is left, and why."""

    place: str
    what: str
    why: str
    code: str | None = None  # of the error that it is refused with


@dataclass
class Heap:
    """What was found, by place."""

    root: Path | None  # None: repositories of a Hub
    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    spare: list[Found] = field(default_factory=list)  # checkpoints that are left, unless something else is made of them


def walk_heap(root: Path, opened: Archives) -> Heap:
    """Look through the folders below ``root``, and at itself; through archives as through folders.

    Args:
        root: a folder, or an archive.
        opened: unpacks the archives that hold an adapter or a model.

    Raises:
        NotFoundError: there is no such folder.
        What `registry.folders.archives.Opened.folder` raises, for the root.
    """
    folder = opened.folder(root)
    if not folder.is_dir():
        raise no_folder(root)
    walk = _Walk(root, opened)
    walk.enter(folder, 0, None)
    walk.sort_checkpoints()
    return Heap(root, walk.found, walk.left, walk.spare)


@dataclass
class _Walk:
    root: Path
    opened: Archives
    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    spare: list[Found] = field(default_factory=list)

    def place(self, folder: Path) -> str:
        """How plans call a folder: by its place below the heap."""
        below = self.opened.named(folder).relative_to(self.root).as_posix()
        return (
            "." if below == "." else f"./{below}".encode("utf-8", "backslashreplace").decode()
        )  # of a name that is left

    def leave(self, folder: Path, what: str, why: str) -> None:
        """Name a folder that stays where it is."""
        self.left.append(Left(self.place(folder), what, why))

    def enter(self, folder: Path, depth: int, repo: str | None) -> None:
        """Look at a folder and at those below it."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            names = {entry.name for entry in entries if entry.is_file()}
            below = [entry for entry in entries if entry.is_dir()]
        except OSError as problem:
            self.leave(folder, "folder", f"it can't be read: {reason(problem)}")
            return
        kind = kind_of(names)
        if kind is not None and kind.taken is None:
            self.leave(folder, kind.what, kind.why or "")
        elif kind is not None and kind.single:
            files = [folder / name for name in sorted(names) if kind.names.fullmatch(name)]
            self.found += [Found(file, self.place(file), kind) for file in files if _is_text(file.name)]
        elif kind is not None:
            run = self.place(folder.parent) if CHECKPOINT.fullmatch(folder.name) and depth else None
            both = kind.taken == "adapter" and holds_model_too(names)
            self.found.append(Found(folder, self.place(folder), kind, run, repo, both))
        for entry in below:
            self._below(Path(entry.path), depth + 1, repo)
        for name in sorted(names):
            if is_archive(name) or is_unread_archive(name):
                self._archive(folder / name, depth + 1)

    def _archive(self, archive: Path, depth: int) -> None:
        """Enter an archive that holds an adapter or a model; name any other."""
        if not _is_text(archive.name) or archive.is_symlink():
            self.leave(archive, "archive", "a symbolic link, or its name is no text in UTF-8: it is not followed")
            return
        if self.opened.is_inside(archive) or is_unread_archive(archive.name):
            where = "lies in an archive" if self.opened.is_inside(archive) else "is of a kind that is not read here"
            self.leave(archive, "archive", f"it {where}: unpack it, and plan again")
            return
        try:
            if any(kind is not None and kind.taken for kind in map(kind_of, _by_folder(self.opened.names(archive)))):
                self.enter(self.opened.folder(archive), depth, None)
            else:
                self.leave(archive, "archive", "no adapter and no model is in it")
        except RegistryError as problem:
            self.left.append(Left(self.place(archive), "archive", str(problem), problem.code))

    def _below(self, folder: Path, depth: int, repo: str | None) -> None:
        if not _is_text(folder.name):
            self.leave(folder, "folder", "its name is no text in UTF-8: rename it, so that a plan can name it")
        elif folder.is_symlink():
            self.leave(folder, "link", "a symbolic link to a folder, which is not followed")
        elif depth > DEPTH:
            self.leave(folder, "folder", f"it lies more than {DEPTH} folders deep")
        elif folder.name.startswith("global_step"):
            self.leave(folder, "DeepSpeed state", "state of DeepSpeed, which holds optimiser states in pickles")
        elif (cached := HUB_REPO.fullmatch(folder.name)) is not None and (folder / "snapshots").is_dir():
            for snapshot in self._snapshots(folder):
                self.enter(snapshot, depth + 2, f"{cached[1]}/{cached[2]}")
        elif NOT_ENTERED.fullmatch(folder.name) is None:
            self.enter(folder, depth, repo)

    def _snapshots(self, repo: Path) -> list[Path]:
        """The snapshots of a repository in a cache of the Hub: the one that ``main`` names, else all."""
        try:
            commit = (repo / "refs/main").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            commit = ""
        there = sorted(one for one in (repo / "snapshots").iterdir() if one.is_dir() and not one.is_symlink())
        newest = [one for one in there if one.name == commit]
        for one in there if newest else []:
            if one not in newest:
                self.leave(one, "snapshot", "an older snapshot of this repository: main is another one")
        return newest or there

    def sort_checkpoints(self) -> None:
        """Of each run take what it saved at its end, else its best checkpoint, else its last one."""
        by_run: dict[str, list[Found]] = {}
        for one in self.found:
            if one.run is not None:
                by_run.setdefault(one.run, []).append(one)
        whole = {one.place for one in self.found if one.kind.what in {"adapter", "model"}}
        for run, several in by_run.items():
            if run in whole:
                self._leave(run, several, f"of {run}, whose own weights are taken")
                continue
            chosen, why = _chosen(self.opened.folder(self.root / run), several)
            others = [one for one in several if one is not chosen]
            self._leave(run, others, f"of {run}, of which {chosen.folder.name} is taken: {why}")

    def _leave(self, run: str, several: list[Found], why: str) -> None:
        """Name checkpoints that stay where they are; many of one run together."""
        gone = {one.place for one in several}
        self.spare += several
        self.found = [one for one in self.found if one.place not in gone]
        if len(several) > _NAMED:
            self.left.append(Left(f"{run}/checkpoint-*", f"{len(several)} checkpoints", f"checkpoints {why}"))
        else:
            self.left += [Left(one.place, "checkpoint", f"a checkpoint {why}") for one in several]


def _chosen(run: Path, several: list[Found]) -> tuple[Found, str]:
    ordered = sorted(several, key=_step)
    last = ordered[-1]
    for place in (run, last.folder):
        best = trainer_state(place).get("best_model_checkpoint")
        for one in ordered:
            if isinstance(best, str) and best.replace("\\", "/").rstrip("/").rpartition("/")[2] == one.folder.name:
                return one, "the best one by its trainer's state"
    return last, "the last one"


def _by_folder(names: Iterable[str]) -> Iterable[set[str]]:
    """The names of files that lie together."""
    found: dict[str, set[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        found.setdefault(folder, set()).add(last)
    return found.values()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _step(found: Found) -> int:
    match = CHECKPOINT.fullmatch(found.folder.name)
    return int(match[1]) if match else 0


def trainer_state(folder: Path) -> dict[str, object]:
    """What a trainer of transformers says in ``trainer_state.json``; empty: nothing that can be read."""
    try:
        file = folder / "trainer_state.json"
        if file.stat().st_size > _MOST_STATE:
            return {}
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
