"""Compares a receipt with the registry's description of the same artifact, field by field. Needs no torch.

Every field that can be computed again is compared, including fields of later versions. What is only recorded is not:
the registry's address, the versions of the programs, and notices. Docs: `docs/cli.md`, registry verify.

The receipt of a written artifact, whichever machine computed it.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from registry.errors import UsageError
from registry.folders.scan import README, RECEIPT
from registry.reference import Reference
from registry.schemas import Fidelity, OutputFile, TensorMismatch
from registry.schemas.artifacts import KINDS
from registry.schemas.receipt import README_FORMAT, Receipt, ReceiptLink, ReceiptVersions, rendering_digest
from registry.schemas.transfer import ArtifactPlan


def receipt_of(
    plan: ArtifactPlan, files: tuple[OutputFile, ...], registry: str, fidelity: Fidelity | None = None
) -> Receipt:
    """The receipt for ``files``, written by a plan of ``registry``, with what was measured meanwhile."""
    return Receipt(
        reference=plan.reference,
        kind=plan.kind,
        base=plan.base,
        since=plan.since,
        plan=plan.plan,
        plan_digest=plan.plan_digest,
        rendering=plan.rendering,
        numerics=plan.numerics,
        lineage=plan.lineage,
        registry=registry,
        versions=ReceiptVersions(
            registry=plan.version,
            artifact_format=plan.artifact_format,
            torch=plan.torch,
            python=platform.python_version(),
        ),
        notices=plan.notices,
        truncation=plan.truncation,
        files=files,
        fidelity=fidelity,
    )


_TOLD: Final = frozenset({"registry", "versions", "notices"})
_OF_BYTES: Final = frozenset({"rendering", "numerics"})  # see `Ours.wrong_rendering`
_SAME: Final = 1e-9
"""What figures of the same arithmetic may differ by: they are sums whose order is fixed."""
_OTHER: Final = 1e-2
"""The same of another arithmetic, which may round single values elsewhere."""
_RATIOS: Final = frozenset({"relative_frobenius", "relative_spectral", "relative_error", "written"})
_SHARES: Final = frozenset({"unchanged_share", "surviving_share"})
_ENERGIES: Final = frozenset({"energy", "discarded"})


@dataclass(frozen=True)
class Ours:
    """The registry's description of the artifact of a receipt."""

    plan: ArtifactPlan
    registry: str  # its address
    files: Collection[str]
    base_model: str | None
    """What README.md calls the model; None: it has none that is made."""
    base_model_known: bool = True  # False: no name that is known gives the registry's own rendering

    def is_exact(self, receipt: Receipt) -> bool:
        """Whether the files have to be equal byte for byte: the receipt names no other arithmetic or format."""
        return self.not_exact(receipt) is None

    def not_exact(self, receipt: Receipt) -> str | None:
        """Why values are compared instead of bytes, as a clause; None: bytes are."""
        ours, theirs = self.plan.artifact_format, receipt.versions.artifact_format
        if receipt.rendering == self.plan.rendering:
            return None
        if theirs != ours:
            return f"made as artifact format {theirs}, and the registry's is {ours}"
        if receipt.numerics != self.plan.numerics:
            return f"made with the arithmetic {receipt.numerics}, and the registry's is {self.plan.numerics}"
        return None

    def wrong_rendering(self, receipt: Receipt) -> str | None:
        """How the rendering contradicts what it is made of; None: it does not."""
        made_of = (receipt.versions.artifact_format, receipt.numerics)
        if receipt.rendering == self.plan.rendering:
            same = made_of == (self.plan.artifact_format, self.plan.numerics)
            return None if same else "versions.artifact_format or numerics is not that of its rendering"
        if not self.base_model_known and self.not_exact(receipt):
            return None
        name = self.base_model if receipt.versions.artifact_format >= README_FORMAT else None
        if receipt.rendering == rendering_digest(receipt.plan_digest, *made_of, name):
            return None
        return "rendering is not that of its plan, its arithmetic (numerics) and its artifact format"

    def listed(self, receipt: Receipt) -> frozenset[str]:
        """Names of the files that a receipt has to list: versions before wrote no README.md."""
        other_format = receipt.versions.artifact_format != self.plan.artifact_format
        return frozenset(self.files) - ({README} if other_format else set())


def wrong_fields(receipt: Receipt, ours: Ours, fidelity: Fidelity | None) -> Iterator[TensorMismatch]:
    """Every field of a receipt that differs from the registry's description.

    Args:
        receipt: in the folder.
        ours: the registry's description.
        fidelity: of the same rows, as the registry measured it; None: it did not.
    """
    reasons = [*_wrong_files(receipt, ours), *filter(None, [ours.wrong_rendering(receipt)])]
    expected = _numbered_as(receipt_of(ours.plan, receipt.files, receipt.registry), receipt)
    mine, theirs = (one.model_dump(mode="json", exclude={*_TOLD, *_OF_BYTES, "files"}) for one in (expected, receipt))
    mine["fidelity"], theirs["fidelity"] = _comparable(receipt, fidelity)
    if receipt.versions.artifact_format != ours.plan.artifact_format and receipt.truncation is not None:
        mine["truncation"] = theirs["truncation"]  # an earlier format measured other figures
    elif not ours.is_exact(receipt) and receipt.truncation is not None and expected.truncation is not None:
        mine["truncation"]["enough_for"] = theirs["truncation"]["enough_for"]  # ranks at the edge of what is rounded
    reasons += _differences("", theirs, mine, _SAME if ours.is_exact(receipt) else _OTHER)
    yield from (TensorMismatch(file=RECEIPT, tensor=None, reason=reason) for reason in reasons)


def _wrong_files(receipt: Receipt, ours: Ours) -> Iterator[str]:
    names = [file.path for file in receipt.files]
    expected = ours.listed(receipt)
    for name in sorted({*names} - expected - {README if README in ours.files else ""}):
        yield f"files lists {name!r}, which the artifact does not have"
    for name in sorted(expected - {*names}):
        yield f"files lacks {name!r}"
    if len(names) != len({*names}):
        yield "files lists a file twice"


def _numbered_as(expected: Receipt, receipt: Receipt) -> Receipt:
    """With the numbers of the receipt, as far as it agrees with itself.

    The same revisions have others in another registry, and in this one once they were deleted and published again.
    """
    if len(expected.lineage) != len(receipt.lineage):
        return expected
    pairs = zip(expected.lineage, receipt.lineage, strict=True)
    links = tuple(_link_numbered_as(mine, theirs) for mine, theirs in pairs)
    named = {link.digest: link.reference for link in links}
    changes: dict[str, object] = {"lineage": links}
    if links:
        changes["reference"] = links[-1].reference
    if expected.plan.since is not None:
        changes["since"] = named.get(expected.plan.since, expected.since)
    return expected.model_copy(update=changes)


def _link_numbered_as(mine: ReceiptLink, theirs: ReceiptLink) -> ReceiptLink:
    try:
        path, number = (Reference.parse(theirs.reference).path, Reference.parse(theirs.reference).number)
    except UsageError:
        return mine
    if path != Reference.parse(mine.reference).path or number != theirs.number:
        return mine
    return mine.model_copy(update={"reference": theirs.reference, "number": theirs.number})


def _comparable(receipt: Receipt, fidelity: Fidelity | None) -> tuple[Any, Any]:
    """Ours and the receipt's figures, as far as both have them."""
    theirs = receipt.fidelity
    if theirs is None:
        return None, None
    if not KINDS[receipt.kind].is_model or not receipt.lineage:
        return None, theirs.model_dump(mode="json")
    if fidelity is None or fidelity.rows != theirs.rows:
        return None, None
    known = None if fidelity.tensors and theirs.tensors else {"tensors", "left_out"}
    return fidelity.model_dump(mode="json", exclude=known), theirs.model_dump(mode="json", exclude=known)


def _differences(where: str, theirs: Any, mine: Any, tolerance: float) -> Iterator[str]:
    """The leaves in which two JSON documents differ, as sentences without a full stop."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted(theirs.keys() | mine.keys()):
            name = f"{where}.{key}" if where else key
            if key in _ENERGIES | _RATIOS | _SHARES and _close(key, theirs, mine, tolerance):
                continue
            yield from _differences(name, theirs.get(key), mine.get(key), tolerance)
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for at, (their, my) in enumerate(zip(theirs, mine, strict=True)):
            yield from _differences(f"{where}[{at}]", their, my, tolerance)
    elif isinstance(theirs, list) and isinstance(mine, list):
        yield f"{where} has {len(theirs)} entries, and the registry's has {len(mine)}"
    elif theirs != mine or type(theirs) is not type(mine):
        yield f"{where} is {_shown(theirs)}, and the registry's is {_shown(mine)}"


def _close(key: str, theirs: dict[str, Any], mine: dict[str, Any], tolerance: float) -> bool:
    """Whether two computed figures are the same up to the order of sums: errors in units of what they are errors of."""
    their, my = theirs.get(key), mine.get(key)
    if not isinstance(their, float | int) or not isinstance(my, float | int):
        return False
    whole = mine.get("energy", 0.0) if key in _ENERGIES else 1.0
    return bool(abs(their - my) <= tolerance * max(abs(my), abs(whole)))


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
