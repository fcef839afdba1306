"""A plan of an import in Python: the document, the file that it is written to, and applying it."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from registry.errors import ConflictError, UsageError
from registry.figures import counted
from registry.files.strict_json import parse
from registry.folders.local_files import read_start, unwritable
from registry.progress import Progress
from registry.schemas import FolderOutcome
from registry.schemas.publishing import ImportAction, ImportDocument, ImportEntry

MAX_PLAN: Final = 256 << 20
WORDS: Final[Mapping[ImportAction, tuple[str, str]]] = {
    "add": ("base model to add", "base models to add"),
    "publish": ("adapter to publish", "adapters to publish"),
    "full": ("full fine-tune to publish", "full fine-tunes to publish"),
    "undecided": ("undecided", "undecided"),
    "refused": ("refused", "refused"),
    "skip": ("left where it is", "left where they are"),
}
"""What one entry of each action is, and several are."""


@dataclass(frozen=True, repr=False)
class ImportPlan:
    """What `registry.operations.registry.Registry.plan_import` found; nothing is done before `apply`."""

    document: ImportDocument
    _apply: Callable[..., tuple[FolderOutcome, ...]]

    @property
    def entries(self) -> tuple[ImportEntry, ...]:
        """The folders, and what is to be done with each."""
        return self.document.entries

    def write(self, file: str | Path) -> None:
        """Write the plan to a new file.

        Raises:
            ConflictError: ``folder_taken``: a file of this name exists, which may have been edited.
            NotAllowedError, UnavailableError: it can't be written.
        """
        write_document(self.document, Path(file))

    def apply(
        self, *, told: Callable[[FolderOutcome], None] = lambda _: None, progress: Progress | bool = False
    ) -> tuple[FolderOutcome, ...]:
        """Do what the plan says: `registry.operations.registry.Registry.apply_import`."""
        return self._apply(self.document, told=told, progress=progress)

    def __repr__(self) -> str:
        return f"<ImportPlan of {self.document.source}: {summary(self.document)}>"


def summary(document: ImportDocument) -> str:
    """The number of entries of each action."""
    counts = Counter(one.action for one in document.entries)
    return (
        ", ".join(counted(counts[action], *words) for action, words in WORDS.items() if counts[action]) or "no folders"
    )


def require_new(file: Path) -> None:
    """Refuse a file that exists, before work that would be lost; raises `ConflictError` (``folder_taken``)."""
    if os.path.lexists(file):
        raise _taken(file)


def _taken(file: Path) -> ConflictError:
    return ConflictError(
        f"{file} is there already, and may have been edited: give another file, or remove it.", code="folder_taken"
    )


def write_document(document: ImportDocument, file: Path) -> None:
    """Write a plan to a new file; see `ImportPlan.write`."""
    entries = document.model_dump(mode="json", exclude_defaults=True)
    head = {"format": document.format, "help": document.help}
    text = json.dumps({**head, **entries}, indent=2, ensure_ascii=False)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        os.link(part, file)  # never over an existing file, and never half of it
    except FileExistsError as problem:
        raise _taken(file) from problem
    except OSError as problem:
        raise unwritable(file, problem) from problem
    finally:
        part.unlink(missing_ok=True)


def read_document(file: Path) -> ImportDocument:
    """Read a plan that may have been edited.

    Raises:
        NotFoundError: the file does not exist.
        UsageError: it is no plan; says where.
    """
    data = read_start(file, MAX_PLAN + 1)
    found = parse(data, what=f"The plan {file}", limit=MAX_PLAN, error=UsageError, code="usage")
    if not isinstance(found, dict) or not {"registry", "entries"} <= found.keys():
        raise UsageError(f"{file} is no plan: one that `registry import SOURCE --plan FILE` wrote is expected.")
    try:
        return ImportDocument.model_validate_json(json.dumps(found))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise UsageError(f"The plan {file} is malformed: {_where(found, first['loc'])}: {first['msg']}.") from None


def _where(found: object, place: tuple[int | str, ...]) -> str:
    """The place of a mistake, with the folder of its entry."""
    words = ".".join(map(str, place)) or "the document"
    if len(place) > 1 and place[0] == "entries" and isinstance(place[1], int) and isinstance(found, dict):
        entry = found["entries"][place[1]]
        folder = entry.get("folder") if isinstance(entry, dict) else None
        if isinstance(folder, str):
            return f"{'.'.join(map(str, place[2:]))} of {folder}"
    return words
