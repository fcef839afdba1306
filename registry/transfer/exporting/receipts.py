"""The receipt of an export: the digests that prove what it is made of and, unless names go out, nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from registry.schemas import OutputFile
from registry.schemas.receipt import Receipt


def exported_receipt(
    receipt: Receipt, files: tuple[OutputFile, ...], sha256: Mapping[str, str], *, with_names: bool
) -> Receipt:
    """The receipt of an export.

    Args:
        receipt: of the artifact that it is made of.
        files: those of the export.
        sha256: the digest of each of them, by which a Hub lists it.
        with_names: keep references.
    """
    changes: dict[str, object] = {"files": files, "exported": dict(sha256), "registry": "", "fidelity": None}
    if not with_names:
        changes |= {
            "reference": receipt.tip,
            "base": receipt.plan.base,
            "plan": receipt.plan.model_copy(update={"base_repo": None}),
            "lineage": tuple(link.model_copy(update={"reference": link.digest}) for link in receipt.lineage),
            "notices": (),
        }
    return receipt.model_copy(update=changes)
