"""Which requests another Hub could answer: reads of one repo, of models or of data sets.

Its address at that Hub is written anew from the parts, so that only a name, a revision and a file get into it. The
next page of a list, which that Hub names, has an address of the view that is made in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_LISTS: Final = frozenset({"revision", "tree", "refs", "commits", "auth-check"})
_ASKED_BY_POST: Final = "paths-info"
_FILES: Final = frozenset({"resolve", "raw"})
_READ: Final = frozenset({"GET", "HEAD"})
_MOST_QUERY: Final = 4096


@dataclass(frozen=True)
class Wanted:
    """What is read of a repo."""

    repo_id: str
    repo: str  # the beginning of its path, which names the repo
    below: str  # the rest of it
    is_file: bool

    @property
    def path(self) -> str:
        """The path below the Hub's address, encoded."""
        return self.repo + self.below


def stand_in(asked: Wanted, word: str) -> Wanted:
    """The same of a repo that nobody has, for one whose name is not to leave: ``word`` is drawn anew each time."""
    kind = asked.repo.removesuffix(quoted(asked.repo_id.split("/")))
    _, *below = asked.below.split("/")
    known = [*below[:1], *(["main"] if below[1:] else []), *(["config.json"] if asked.is_file else [])]
    return Wanted(asked.repo_id, f"{kind}/{word}/none", quoted(known), asked.is_file)


def next_page(asked: Wanted, below: str) -> str | None:
    """The path and the query of the next page of a list, by what the Hub gives for it below its address; None: no such.

    The repo stays the requested one, since a Hub may know it by another name.
    """
    found = urlsplit(below)
    told = wanted("GET", b"/view" + found.path.encode("ascii", "replace"))
    plain = below.isascii() and below.isprintable() and not {*'<>"\\ '} & {*below} and len(found.query) <= _MOST_QUERY
    if told is None or told.is_file or found.netloc or not plain or _list_of(told) != _list_of(asked):
        return None
    return f"{asked.repo}{told.below}?{found.query}"


def _list_of(asked: Wanted) -> tuple[str, str]:
    """Which list of a repo it is, and of what kind of repo."""
    return asked.repo.split("/")[2], asked.below.partition("/")[2].partition("/")[0]


def quoted(segments: Sequence[str]) -> str:
    """Segments as a path."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def wanted(method: str, raw_path: bytes) -> Wanted | None:
    """What a request to a view reads of a repo, by its undecoded path; None: nothing to request from another Hub."""
    _, _view, *given = raw_path.decode("ascii", "replace").split("/")
    segments = [unquote(segment, errors="replace") for segment in given]
    if not all(map(_is_plain, segments)):
        return None
    if segments[:1] == ["api"]:
        return _metadata(method, segments[1:2], segments[2:])
    is_dataset = segments[:1] == ["datasets"]
    return _file(method, segments[:1] if is_dataset else [], segments[1:] if is_dataset else segments)


def _metadata(method: str, kind: list[str], rest: list[str]) -> Wanted | None:
    words = {*_LISTS, _ASKED_BY_POST}
    parts = 2 if len(rest) > 1 and rest[1] not in words else 1
    repo, below = rest[:parts], rest[parts:]
    if kind not in (["models"], ["datasets"]) or (below and below[0] not in words):
        return None
    methods = {"POST"} if below[:1] == [_ASKED_BY_POST] else _READ
    return _made(["api", *kind], repo, below, is_file=False) if method in methods else None


def _file(method: str, kind: list[str], rest: list[str]) -> Wanted | None:
    parts = 1 if _FILES & set(rest[1:2]) else 2
    repo, below = rest[:parts], rest[parts:]
    if not _FILES & set(below[:1]) or len(below) < 3 or method not in _READ:
        return None
    return _made(kind, repo, below, is_file=True)


def _made(kind: Sequence[str], repo: Sequence[str], below: Sequence[str], *, is_file: bool) -> Wanted | None:
    if not repo or not all(map(_PART.fullmatch, repo)):
        return None
    return Wanted("/".join(repo), quoted([*kind, *repo]), quoted(below), is_file)


def _is_plain(segment: str) -> bool:
    """Whether a decoded segment is a name, or a revision with slashes in it, and leads nowhere else."""
    return all(part not in {"", ".", ".."} for part in segment.split("/")) and segment.isprintable()
