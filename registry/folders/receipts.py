"""The receipt: what was computed for a fetched folder, and the digests of the result.

It lies beside the artifact's files and is not one of them. When an adapter is trained on a folder fetched as
``merged``, the receipt tells publish which revision is the parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from registry.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from registry.figures import command
from registry.folders.errors import reason, telling_unreadable
from registry.folders.foreign import no_folder
from registry.folders.scan import RECEIPT
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
