"""Names for what a heap holds: made of the names of its folders, valid and free, the same ones every time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from itertools import count, islice
from typing import Final

from registry.errors import UsageError
from registry.folders.foreign import is_archive, without_ending
from registry.folders.heaps import CHECKPOINT, HUB_REPO
from registry.folders.lora_files import ENDING
from registry.reference import MAX_BELOW_BASE, Path, check_base_name

_SAYS_NOTHING: Final = re.compile(
    r"adapters?|q?lora([_-](out|model|adapters?|weights))?|peft|models?|outputs?|out|results?|final|last|best|save[ds]?|"
    r"merged([_-]model)?|full|sft|dpo|train_[0-9-]+|snapshots|[0-9a-f]{40}"
)
"""Names of folders that describe the kind of their content or its source, and identify nothing."""
_COPY: Final = re.compile(r"(?:^|[\W_])(?:backups?|bak|cop(?:y|ies)|old|archived?|trash|kopie)(?:[\W_]|\d|$)|\(\d+\)$")
"""In the place of a folder that is a copy of another one."""
_LONGEST: Final = 40
_LEAST: Final = 3


def wanted_name(place: str, repo: str | None, *, dots: bool) -> str:
    """The name that the place of a folder suggests; ``dots``: of a base model, whose name may have some.

    The folder's own name, or that of the nearest one above it that identifies more.
    """
    if repo is not None:
        return _valid(repo.rpartition("/")[2], dots) or "adapter"
    parts = [without_ending(part).removesuffix(ENDING) for part in place.split("/") if part not in {"", "."}]
    for part in reversed(parts):
        cached = HUB_REPO.fullmatch(part)
        name = _valid(cached[2] if cached else part, dots)
        if name and CHECKPOINT.fullmatch(part) is None and _SAYS_NOTHING.fullmatch(name) is None:
            return name
    return _valid(parts[-1], dots) if parts and _valid(parts[-1], dots) else "adapter"


def says_copy(place: str) -> bool:
    """Whether a folder, or one above it, is called a copy or is an archive: another folder, if any, takes the name."""
    return any(is_archive(part) or _COPY.search(part.casefold()) is not None for part in place.split("/"))


def _valid(text: str, dots: bool) -> str:
    allowed = r"[^a-z0-9._]+" if dots else r"[^a-z0-9_]+"
    letters = "".join(
        char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char)
    )
    name = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", re.sub(allowed, "-", letters)))
    return name[:_LONGEST].strip("._-").removesuffix(".git").strip("._-")


def free_base(name: str, taken: Collection[str]) -> str:
    """The name, or it with a number."""
    for one in _numbered(name):
        if one in taken:
            continue
        try:
            return check_base_name(one)
        except UsageError:
            continue
    raise AssertionError("there is always one more number")


def free_path(parent: Path, name: str, taken: Collection[Path]) -> Path:
    """The path below a parent under that name, or one like it.

    Raises:
        UsageError: ``bad_name``, the path above is too long for another name.
    """
    room = MAX_BELOW_BASE - len("/".join(parent.names)) - bool(parent.names)
    if room < _LEAST:
        raise UsageError(
            f"A path below {parent} would be too long: the part below the base model may have {MAX_BELOW_BASE} "
            "characters. Give the folders above it shorter names.",
            code="bad_name",
        )
    problem = None
    for one in islice(_numbered(name), 10_000):
        try:
            path = Path.parse(f"{parent}/{_cut(one, room)}")
        except UsageError as wrong:
            problem = wrong
            continue
        if path not in taken:
            return path
    raise problem or UsageError(f"There is no free name like {name!r} below {parent}.", code="bad_name")


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _cut(name: str, room: int) -> str:
    """The name with at most so many characters, and its number."""
    if len(name) <= room:
        return name
    stem, dash, number = name.rpartition("-")
    end = f"{dash}{number}" if dash and number.isdigit() else ""
    return f"{(stem if end else name)[: room - len(end)].rstrip('-_')}{end}"
