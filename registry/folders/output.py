"""Fills a folder with an artifact or an export: it appears when complete, and replaces only what was written so."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from registry.errors import ConflictError, IntegrityError, NotAllowedError, NotFoundError, UnavailableError, UsageError
from registry.files.opened import sync_folder
from registry.folders.local_files import reason, telling_unreadable, telling_unwritable
from registry.folders.receipts import Beside, advice, beside, named, read_receipt, write_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import put_in_place, staged_folder
from registry.folders.writer import Writable, write_files
from registry.progress import SILENT, Progress
from registry.schemas import Fetched, OutputFile
from registry.schemas.artifacts import fuller
from registry.schemas.receipt import Receipt

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path, files: Iterable[Path]) -> None:
    """Remove all permissions of group and others from the folder and the given files.

    Raises:
        NotAllowedError: ``read_only``, another user owns it.
    """
    try:
        for place in (folder, *files):  # the folder first: it makes the rest of its content unreachable
            _close(place)
    except OSError as error:
        raise NotAllowedError(
            f"The folder {folder} can't be closed to other users ({reason(error)}), which a registry with tokens "
            "requires: run this as its owner.",
            code="read_only",
        ) from error


def _close(place: Path) -> None:
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & _OTHERS:
            place.chmod(mode & ~_OTHERS)
    except FileNotFoundError:  # SQLite removes its own temporary files
        return


_READ: Final = 8 << 20
_ADDRESS: Final = re.compile(r"hf:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

MakeReceipt = Callable[[tuple[OutputFile, ...]], Receipt]


def absolute(out: Path) -> Path:
    """The absolute path, with a symbolic link given by the user resolved.

    Raises:
        UsageError: it begins with the home of a user that does not exist.
        NotAllowedError, UnavailableError: the file system denies access.
    """
    if _ADDRESS.match(str(out)) and not Path(out.parts[0]).exists():
        raise UsageError(
            f"{str(out)!r} is no folder: `registry export REF hf:ORG/REPO` writes to a Hub, and to other places what "
            "was fetched is copied."
        )
    try:
        out = out.expanduser()
    except RuntimeError:
        raise UsageError(
            f"{out} begins with the home of a user that does not exist here: give the whole path, or ./{out} for a "
            "folder of that name."
        ) from None
    with telling_unwritable(out):
        return out.resolve() if out.is_symlink() else out.absolute()


def fetched(receipt: Receipt, place: Path, *, fresh: bool) -> Fetched:
    """The answer of a fetch whose folder holds what the receipt describes."""
    return Fetched(
        reference=receipt.reference,
        kind=receipt.kind,
        folder=str(place),
        rendering=receipt.rendering,
        fresh=fresh,
        files=receipt.files,
        notices=receipt.notices,
        truncation=receipt.truncation,
        fidelity=receipt.fidelity,
    )


def receipt_of_rendering(place: Path, rendering: str, size: int, progress: Progress) -> Receipt | None:
    """The receipt in the folder if it is of this rendering and every file matches it, else None."""
    try:
        receipt = read_receipt(place)
    except (NotFoundError, IntegrityError):
        return None
    if receipt.rendering != rendering or receipt.exported is not None:  # an export has a card and a config of its own
        return None
    progress.begin("Checking existing files", size)
    return receipt if all(file_is_right(place, file, progress) for file in receipt.files) else None


def already_there(
    place: Path, rendering: str, size: int, make_receipt: MakeReceipt, progress: Progress
) -> Fetched | None:
    """The answer of a fetch whose folder already holds this rendering, complete; None if it has to be filled.

    Several references, registries and options can give the same rendering: the answer is about this request, and the
    receipt is rewritten to match it. Other files in the folder, such as a trainer's checkpoints, are named in a notice.

    Raises:
        ConflictError: ``folder_taken``, the folder holds files of something else that programs load with them.
    """
    there = receipt_of_rendering(place, rendering, size, progress)
    if there is None:
        return None
    with telling_unwritable(place):
        others = beside(place, (file.path for file in there.files))
    if others.loaded:
        told = advice(others.loaded, f"{there.reference} as {there.kind}")
        raise ConflictError(f"{place} {told}.", code="folder_taken")
    # The bytes are still those that another version of the registry may have written.
    receipt = make_receipt(there.files)
    receipt = receipt.model_copy(
        update={"versions": there.versions, "fidelity": fuller(receipt.fidelity, there.fidelity)}
    )
    answer = fetched(receipt, place, fresh=False)
    answer = answer.model_copy(update={"notices": (*answer.notices, *_notices(place, others))})
    if receipt == there:
        return answer
    try:
        _replace_receipt(place, receipt)
    except OSError as problem:  # such as another user's folder
        told = (
            f"The receipt in {place} still says {there.reference} of {there.registry}, for which the same files were "
            f"fetched before: it can't be updated ({reason(problem)})."
        )
        return answer.model_copy(update={"notices": (*answer.notices, told)})
    return answer


def _notices(place: Path, others: Beside) -> tuple[str, ...]:
    """The notice about a folder that holds more than its artifact."""
    if not others.others:
        return ()
    verb = "is" if len(others.others) == 1 else "are"
    return (f"{place} also contains {named(others.others)}, which {verb} not of the artifact.",)


def _replace_receipt(place: Path, receipt: Receipt) -> None:
    """Replace the receipt of a complete folder atomically; raises OSError."""
    with staged_folder(place) as staging:  # next to the folder, so that leftovers of a killed run are cleared
        _write_receipt(staging, receipt, place)
        (staging / RECEIPT).replace(place / RECEIPT)
    sync_folder(place)


def _write_receipt(folder: Path, receipt: Receipt, files: Path) -> None:
    """Write the receipt of what is in ``files`` with their time and one nanosecond: see `has_own_times`."""
    with (folder / RECEIPT).open("xb") as stream:
        stream.write(write_receipt(receipt))
        stream.flush()
        if (last := _last_written(files)) is not None:
            with suppress(OSError):
                os.utime(folder / RECEIPT, ns=(last + 1, last + 1))
        os.fsync(stream.fileno())


def has_own_times(folder: Path) -> bool:
    """Whether the weights in a folder have the times at which they were fetched; raises OSError.

    What is copied without its times has others, which are whole ticks of a clock apart, and never one nanosecond.
    """
    last = _last_written(folder)
    return last is not None and (folder / RECEIPT).is_file() and (folder / RECEIPT).stat().st_mtime_ns == last + 1


def _last_written(folder: Path) -> int | None:
    return max((file.stat().st_mtime_ns for file in folder.glob("*.safetensors")), default=None)


def file_is_right(folder: Path, file: OutputFile, progress: Progress) -> bool:
    """Whether a file of a fetched folder has the size and BLAKE3 digest of the receipt."""
    return is_right(folder / file.path, file, progress)


def is_right(place: Path, file: OutputFile, progress: Progress = SILENT) -> bool:
    """Whether a file, wherever it is, has the size and BLAKE3 digest of a receipt."""
    digest = blake3()
    try:
        with place.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != file.size:
                return False
            while data := stream.read(_READ):
                digest.update(data)
                progress.advance(len(data))
    except OSError:
        return False
    return digest.hexdigest() == file.blake3


def may_fill(place: Path, *, force: bool) -> bool:
    """Whether the folder has to be replaced.

    Raises:
        ConflictError: ``folder_taken``, it holds something that may not be replaced.
        NotAllowedError, UnavailableError: the file system denies access.
    """
    with telling_unwritable(place):
        return _may_fill(place, force=force)


def _may_fill(place: Path, *, force: bool) -> bool:
    if not place.exists():
        return False
    if not place.is_dir():
        raise ConflictError(f"{place} is a file; a folder that is absent or empty is expected.", code="folder_taken")
    names = {entry.relative_to(place).as_posix() for entry in place.rglob("*") if not entry.is_dir()}
    if not names:
        return any(place.iterdir())
    try:
        receipt = read_receipt(place)
    except (NotFoundError, IntegrityError):
        raise ConflictError(
            f"{place} contains files that were not written by fetch; choose a folder that is absent or empty.",
            code="folder_taken",
        ) from None
    what = f"{receipt.reference} as {receipt.kind} or a changed copy of it"
    others = beside(place, (file.path for file in receipt.files)).names
    if others:
        verb, them = ("was", "it") if len(others) == 1 else ("were", "them")
        raise ConflictError(
            f"{place} contains {what}, and {named(others)}, which {verb} not written by fetch, so --force can't "
            f"replace the folder; move {them} away, or choose another folder.",
            code="folder_taken",
        )
    if not force:
        raise ConflictError(
            f"{place} contains something else, {what}; --force replaces what an earlier fetch wrote.",
            code="folder_taken",
        )
    return True


def fill(
    place: Path,
    artifact: Writable,
    make_receipt: MakeReceipt,
    *,
    replace: bool,
    progress: Progress,
    resumable: bool = False,
) -> Receipt:
    """Write all files and the receipt to a staging folder, and rename it to ``place``.

    ``resumable``: what was written before an interruption stays next to ``place``, hidden, for the next run.
    ``make_receipt`` is called after all files are written; if it raises, nothing is left behind.

    Raises:
        ConflictError: ``folder_taken``, something was created in its place meanwhile.
        UnavailableError, NotAllowedError: the file system denied it; nothing is left behind.
    """
    with telling_unwritable(place), staged_folder(place, leave=resumable) as staging:
        _check_space(place, artifact.size)
        receipt = make_receipt(write_files(artifact, staging, progress))
        _write_receipt(staging, receipt, staging)
        put_in_place(staging, place, replace=replace)
        return receipt


def _check_space(place: Path, size: int) -> None:
    free = shutil.disk_usage(place.parent).free
    if free < size:
        raise UnavailableError(
            f"{place} needs {size} bytes, but only {free} are free; free some space or choose another disk.",
            code="disk_full",
        )


def export_in(place: Path, progress: Progress) -> Receipt | None:
    """The receipt of the export in a folder; None: it does not exist, or is empty.

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
