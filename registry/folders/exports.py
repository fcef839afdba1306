"""Folders that hold an export: only such a one, unchanged, is replaced by the next."""

from __future__ import annotations

from pathlib import Path

from registry.errors import ConflictError, IntegrityError, NotFoundError
from registry.folders.errors import telling_unreadable
from registry.folders.output import file_is_right
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.progress import Progress
from registry.schemas.receipt import Receipt


def export_in(place: Path, progress: Progress) -> Receipt | None:
    """The receipt of the export in a folder; None: there is no folder, or an empty one.

    Raises:
        ConflictError: ``folder_taken``, it holds something else, or an export that was changed.
    """
    with telling_unreadable(place):
        if not place.exists():
            return None
        if not place.is_dir():
            raise _taken(place, "is a file")
        names = {
            entry.relative_to(place).as_posix()
            for entry in place.rglob("*")
            if entry.is_symlink() or not entry.is_dir()
        }
        folder = next(iter(place.iterdir()), None)
    if not names:
        if folder is not None:
            raise _taken(place, f"holds the folder {folder.name!r}")
        return None
    try:
        receipt = read_receipt(place)
    except (NotFoundError, IntegrityError):
        raise _taken(place, "holds files that no export wrote") from None
    if receipt.exported is None:
        raise _taken(place, "holds what `registry fetch` wrote")
    if (changed := difference(receipt, names)) is not None:
        raise _taken(place, changed)
    progress.begin("Checking existing files", sum(file.size for file in receipt.files))
    for file in receipt.files:
        if not file_is_right(place, file, progress):
            raise _taken(place, f"holds {file.path!r} that was changed since the export")
    return receipt


def difference(receipt: Receipt, names: set[str]) -> str | None:
    """What some names of files have besides those of an export, or lack of them; as a clause."""
    expected = {RECEIPT, *(file.path for file in receipt.files)}
    if names == expected:
        return None
    other = sorted(names - expected)
    return f"holds {other[0]!r} that no export wrote" if other else f"lacks {min(expected - names)!r} of its export"


def _taken(place: Path, what: str) -> ConflictError:
    return ConflictError(
        f"{place} {what}; an export only replaces an earlier one. Choose a folder that is absent or empty.",
        code="folder_taken",
    )
