"""The receipt: what was computed for a fetched folder, and the digests of the result.

It lies beside the artifact's files and is not one of them. When an adapter is trained on a folder fetched as
``merged``, the receipt tells publish which revision is the parent.

What a receipt says about the weights beside it is recorded as ``derived_from``, when a composed or truncated adapter is
published or a merged model is added as a base. That proves nothing, because the files may have been overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from registry.digest import is_digest
from registry.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from registry.figures import command
from registry.folders.foreign import no_folder
from registry.folders.local_files import reason, telling_unreadable
from registry.folders.scan import RECEIPT
from registry.schemas import DerivedFrom, LeftOut
from registry.schemas.receipt import Receipt

MAX_RECEIPT: Final = 64 << 20


def read_receipt(file: Path, error: type[RegistryError] = IntegrityError) -> Receipt:
    """Read a receipt, or the receipt in a folder.

    Raises:
        NotFoundError: there is none.
        error: it is not a receipt.
    """
    try:
        file = file / RECEIPT if file.is_dir() else file
        with file.open("rb") as stream:
            data = stream.read(MAX_RECEIPT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"There is no receipt {str(file)!r}; `registry fetch` writes one.", code="missing_file"
        ) from None
    except OSError as problem:
        raise error(f"The receipt {str(file)!r} can't be read: {reason(problem)}.") from None
    try:
        return Receipt.model_validate_json(data[:MAX_RECEIPT])
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise error(
            f"{file} is not a receipt of this registry: {where}: {first['msg']}. Fetch the folder again."
        ) from None


def receipt_in(folder: Path) -> Receipt:
    """The receipt in a folder that is to be verified.

    Raises:
        UsageError: it is of an export.
        NotFoundError, IntegrityError: as `read_receipt`.
    """
    with telling_unreadable(folder):
        if folder.is_file() and folder.name != RECEIPT:
            raise no_folder(folder)
        if not folder.exists():
            raise no_folder(folder, "; one that `registry fetch REF -o DIR` wrote is expected")
    receipt = read_receipt(folder)
    if receipt.exported is not None:
        raise UsageError(
            f"{folder} is an export, with a card and a configuration of its own: "
            f"{command('registry', 'publish', folder, 'PATH', '--dry-run')} checks its adapter, and "
            f"{command('registry', 'identify', folder)} a merged model."
        )
    return receipt


def write_receipt(receipt: Receipt) -> bytes:
    """Serialise a receipt."""
    return (receipt.model_dump_json(indent=2) + "\n").encode("utf-8")


_UNREADABLE = "receipt of a fetch that can't be read: its content is not recorded"


def derived_from(
    folder: Path, weights: Collection[str], left_out: Iterable[LeftOut]
) -> tuple[DerivedFrom | None, tuple[LeftOut, ...]]:
    """What the receipt beside some weights says about them, and the left-out files with their reasons updated.

    None: there is no receipt, or it is about other files, since an adapter may be saved into a merged model's folder.
    """
    listed = tuple(left_out)
    told = tuple(one.model_copy(update={"reason": _UNREADABLE}) if one.path == RECEIPT else one for one in listed)
    if not (folder / RECEIPT).is_file():
        return None, listed
    try:
        receipt = read_receipt(folder)
    except RegistryError:
        return None, told
    if not weights or not set(weights) <= {file.path for file in receipt.files}:
        return None, listed
    try:
        return _said(receipt), listed
    except ValidationError:
        return None, told


def _said(receipt: Receipt) -> DerivedFrom:
    truncation, ranks = receipt.truncation, receipt.plan.ranks
    total = truncation.total if truncation else None
    return DerivedFrom(
        kind=receipt.kind,
        reference=None if is_digest(receipt.reference) else receipt.reference,  # of an export without names
        digest=receipt.tip or receipt.plan.base,
        since=receipt.since,
        since_digest=receipt.plan.since,
        links=tuple(link.revision for link in receipt.plan.links),
        plan=receipt.plan_digest,
        dtype=receipt.plan.dtype,
        rank=max(ranks.values(), default=0) if ranks is not None else None,
        max_error=truncation.max_error if truncation else None,
        error=None if total is None else total.relative_frobenius if total.written is None else total.written,
    )
