"""One fetched file among others of a program: a stable name, replaced in one step, with the receipt apart.

ComfyUI and Forge list every weight file of ``models/loras``. So a LoRA for them is put there as one file with the name
of its path, which workflows go on finding when a newer revision takes its place, and the receipt lies beside it with an
ending that neither lists. Only what an earlier fetch of the same path wrote, unchanged since, is replaced unasked.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from registry.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from registry.files.opened import lock_folder, sync_folder
from registry.folders.local_files import telling_unwritable
from registry.folders.output import absolute, is_right
from registry.folders.receipts import read_receipt, write_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import hold
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import Fetched
from registry.schemas.receipt import Receipt
from registry.schemas.weights import as_read

WEIGHTS: Final = ".safetensors"
RECEIPT_END: Final = ".registry.json"
"""Behind the name without ``.safetensors``. Forge and others read NAME.json as the description of a LoRA."""

_READ: Final = 8 << 20


def place_for(out: Path, reference: str) -> Path:
    """The file that is written: ``out`` if it is named as weights are, else one in it with the name of the path."""
    place = absolute(out)
    if place.suffix == WEIGHTS:
        return place
    return place / f"{str(Reference.parse(reference).path).replace('/', '-')}{WEIGHTS}"


def receipt_beside(place: Path) -> Path:
    """The receipt of a file."""
    return place.with_name(f"{place.name.removesuffix(WEIGHTS)}{RECEIPT_END}")


def put_file(fetched: Fetched, out: Path, *, force: bool, progress: Progress) -> Fetched:
    """Put the only file of a fetched folder in its place.

    Args:
        fetched: the folder, in the cache.
        out: the file, or the folder that it goes into under the name of its path.
        force: replace what was fetched there of another path.
        progress: counts bytes.

    Returns:
        The answer with the file as its folder.

    Raises:
        ConflictError: ``folder_taken``, there is another file.
        UnavailableError, NotAllowedError: the file system refused.
    """
    place, folder = place_for(out, fetched.reference), Path(fetched.folder)
    receipt = read_receipt(folder)
    (file,) = receipt.files
    with telling_unwritable(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(place.parent)
        try:
            fresh = not is_right(place, file)
            if fresh:
                _check_may_replace(place, receipt, force=force)
                _copy(folder, file.path, place, progress)
            _write(receipt_beside(place), lambda stream: _put(stream, write_receipt(receipt)))
            sync_folder(place.parent)
        finally:
            lock.close()
    own = file.model_copy(update={"path": place.name})
    return fetched.model_copy(update={"folder": str(place), "files": (own,), "fresh": fresh})


def _check_may_replace(place: Path, receipt: Receipt, *, force: bool) -> None:
    if not place.exists():
        return
    before = _fetched_there(place)
    if before is None:
        raise ConflictError(
            f"{place} exists, and is not as a fetch wrote it there: nothing was written. Move it, or give another "
            f"name with -o {place.with_name('NAME' + WEIGHTS)}.",
            code="folder_taken",
        )
    if not force and _what(before) != _what(receipt):
        raise ConflictError(
            f"{place} was fetched of {before.reference}{_weights(before)}: nothing was written. Replace it with "
            f"--force, or give another name with -o {place.with_name('NAME' + WEIGHTS)}.",
            code="folder_taken",
        )


def _what(receipt: Receipt) -> tuple[str, str]:
    """The path, and the weights of its links: revisions of one path replace each other, other weights don't."""
    return str(Reference.parse(receipt.reference).path), _weights(receipt)


def _weights(receipt: Receipt) -> str:
    of = [f"{link.reference.partition('@')[0]}={as_read(link.weight)}" for link in receipt.lineage if link.weight != 1]
    return f" with the weights {', '.join(of)}" if of else ""


def _fetched_there(place: Path) -> Receipt | None:
    """The receipt of a file that is as it was fetched."""
    try:
        receipt = read_receipt(receipt_beside(place))
    except (NotFoundError, IntegrityError):
        return None
    return receipt if len(receipt.files) == 1 and is_right(place, receipt.files[0]) else None


def _copy(folder: Path, name: str, place: Path, progress: Progress) -> None:
    held = hold(folder)
    if held is None:
        raise UnavailableError(f"The cache dropped {folder} meanwhile: fetch it again.", code="unavailable")
    try:
        with (folder / name).open("rb") as source:
            progress.begin("Writing", os.fstat(source.fileno()).st_size)

            def put(stream: BinaryIO) -> None:
                while data := source.read(_READ):
                    stream.write(data)
                    progress.advance(len(data))

            _write(place, put)
    finally:
        held.release()


def _put(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)


def _write(place: Path, put: Callable[[BinaryIO], None]) -> None:
    """Write a file that has its name once it is complete."""
    part = place.with_name(f".{place.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as stream:
            put(stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(place)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def placed(place: Path) -> Path | None:
    """The weights that a path means, if it is a file that was put in its place or its receipt; else None."""
    if place.name.endswith(RECEIPT_END):
        place = place.with_name(place.name.removesuffix(RECEIPT_END) + WEIGHTS)
    return place if place.suffix == WEIGHTS and receipt_beside(place).is_file() else None


@contextmanager
def as_folder(place: Path) -> Iterator[Path]:
    """A file that was put in its place as the folder that was fetched, for as long as the block lasts.

    Raises:
        IntegrityError: its receipt is none.
    """
    receipt = read_receipt(receipt_beside(place))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in receipt.files[:1]:
            (folder / Path(file.path).name).symlink_to(place.absolute())
        (folder / RECEIPT).write_bytes(write_receipt(receipt))
        yield folder
