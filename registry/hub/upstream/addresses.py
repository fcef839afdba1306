"""Which requests another Hub could answer: reads of one repo, of models or of data sets.

Its address there is written anew from the parts, so that nothing but a name, a revision and a file gets into it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_LISTS: Final = frozenset({"revision", "tree", "refs", "commits", "auth-check"})
_ASKED_BY_POST: Final = "paths-info"
_FILES: Final = frozenset({"resolve", "raw"})
_READ: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Wanted:
    """What is read of a repo."""

    repo_id: str
    path: str  # below the Hub's address, encoded
    is_file: bool


def wanted(method: str, raw_path: bytes) -> Wanted | None:
    """What a request to a view reads of a repo, by its undecoded path; None: nothing that another Hub may be asked."""
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
    return _made(repo, ["api", *kind, *repo, *below], is_file=False) if method in methods else None


def _file(method: str, kind: list[str], rest: list[str]) -> Wanted | None:
    parts = 1 if _FILES & set(rest[1:2]) else 2
    repo, below = rest[:parts], rest[parts:]
    if not _FILES & set(below[:1]) or len(below) < 3 or method not in _READ:
        return None
    return _made(repo, [*kind, *repo, *below], is_file=True)


def _made(repo: Sequence[str], segments: Sequence[str], *, is_file: bool) -> Wanted | None:
    if not repo or not all(map(_PART.fullmatch, repo)):
        return None
    path = "".join(f"/{quote(segment, safe='')}" for segment in segments)
    return Wanted("/".join(repo), path, is_file)


def _is_plain(segment: str) -> bool:
    """Whether a decoded segment is a name, or a revision with slashes in it, and leads nowhere else."""
    return all(part not in {"", ".", ".."} for part in segment.split("/")) and segment.isprintable()
