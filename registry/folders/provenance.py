"""What the receipt in a folder says about the folder's own weights, recorded as ``derived_from``.

It applies when a composed or truncated adapter is published, or a merged model is added as a base. It is not the
receipt of the folder that an adapter was *trained on*, which shows the parent (`registry.folders.receipts`): that one
lies in another folder and is about other files. This one proves nothing, because the files may have been overwritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from registry.digest import is_digest
from registry.errors import RegistryError
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.schemas import DerivedFrom, LeftOut
from registry.schemas.receipt import Receipt

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
