"""The parent of a publish: proved by what the adapter was trained on, never guessed.

In this order: ``--parent``; the receipt (given, or that of the folder which ``base_model_name_or_path`` names); else
the only revision that the path's parent has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.catalogue import bases, revisions
from registry.catalogue.bases import BaseRow
from registry.catalogue.revisions import RevisionRow
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.services.deployment import Deployment
from registry.wire import GivenReceipt

_LISTED = 10


@dataclass(frozen=True)
class Parent:
    """The pinned parent. ``row`` None: the base model itself."""

    base: BaseRow
    row: RevisionRow | None
    reason: str

    @property
    def reference(self) -> str:
        """``PATH@N``, or the base model's name."""
        return self.row.reference if self.row else self.base.name

    @property
    def digest(self) -> str:
        """Of the revision, or of the base's weights."""
        return self.row.digest if self.row else self.base.digest


def find_parent(deployment: Deployment, path: TreePath, *, parent: str | None, receipt: GivenReceipt | None) -> Parent:
    """The parent revision of a new revision of ``path``.

    Args:
        deployment: where to look.
        path: the adapter that is published.
        parent: reference given by the user.
        receipt: given by the user, or found in the folder that the adapter was trained on.

    Raises:
        NotFoundError: the base model, the adapter above or the given revision does not exist.
        UsageError: ``parent_ambiguous``, or the path is a base model.
        ConflictError: ``parent_mismatch``: the proofs contradict each other or the path.
    """
    above = path.parent
    if above is None:
        raise UsageError(f"{path} is a base model: the path of an adapter is expected, such as {path}/NAME.")
    base, candidates = _candidates(deployment, above)
    why = "" if receipt is None else receipt.words
    from_receipt = None if receipt is None else _Found(_by_receipt(base, above, candidates, receipt), why)
    if parent is not None:
        given = _Found(_by_reference(deployment, above, parent), f"given as {parent}")
        if from_receipt is not None and from_receipt.row != given.row:
            raise ConflictError(
                f"--parent {parent} says {_name(base, given.row)}, but {why} says {_name(base, from_receipt.row)}; "
                "leave out the one that is wrong.",
                code="parent_mismatch",
            )
        return Parent(base, given.row, given.reason)
    if from_receipt is not None:
        return Parent(base, from_receipt.row, from_receipt.reason)
    if above.is_base:
        return Parent(base, None, "the path is directly under the base model")
    if len(candidates) > 1:
        names = ", ".join(row.reference for row in candidates[:_LISTED])
        told = f" ({names})" if deployment.rights.sees(above) else ""
        raise UsageError(
            f"{above} has several revisions{told} and nothing shows which one this adapter was trained on; "
            "say it with --parent REF, or with --receipt FILE of the folder it was trained on.",
            code="parent_ambiguous",
        )
    return Parent(base, candidates[0], f"the only revision of {above}")


@dataclass(frozen=True)
class _Found:
    row: RevisionRow | None
    reason: str


def _name(base: BaseRow, row: RevisionRow | None) -> str:
    return row.reference if row else f"the base model {base.name}"


@contextmanager
def reading_above(deployment: Deployment, above: TreePath) -> Iterator[Session]:
    """A read transaction in which the parent of what is published is seen, also above the token's scope.

    What it is not told there: which other names there are.

    Raises:
        NotFoundError: what is looked for does not exist.
    """
    if deployment.rights.sees(above):
        with deployment.read() as session:
            yield session
        return
    try:
        with deployment.read_everything() as session:
            yield session
    except NotFoundError as problem:
        if problem.code != "not_found":
            raise
        raise NotFoundError(f"There is no such parent at {above}, which the path names.") from None


def _candidates(deployment: Deployment, above: TreePath) -> tuple[BaseRow, tuple[RevisionRow, ...]]:
    with reading_above(deployment, above) as session:
        base = bases.get(session, above.base)
        return base, () if above.is_base else revisions.of_adapter(session, above)


def _by_reference(deployment: Deployment, above: TreePath, text: str) -> RevisionRow | None:
    reference = Reference.parse(text)
    if reference.path != above:
        raise ConflictError(
            f"--parent {text} is not a revision of {above}, which the path names as the parent.", code="parent_mismatch"
        )
    if above.is_base:
        return None
    with reading_above(deployment, above) as session:
        return revisions.find(session, reference)


def _by_receipt(
    base: BaseRow, above: TreePath, candidates: tuple[RevisionRow, ...], given: GivenReceipt
) -> RevisionRow | None:
    """The revision that a receipt proves."""
    receipt, why = given.receipt, given.words
    if receipt.kind == "published" or receipt.since is not None:
        raise ConflictError(
            f"{why} is of a {receipt.kind} artifact that is not the whole path; train on a merged one, "
            "or say the parent with --parent and leave the receipt out.",
            code="parent_mismatch",
        )
    if receipt.plan.base != base.digest:
        raise ConflictError(
            f"{why} is of the base weights {receipt.plan.base}, but {base.name} has {base.digest}.",
            code="parent_mismatch",
        )
    if receipt.tip is None and above.is_base:
        return None
    row = next((row for row in candidates if row.digest == receipt.tip), None)
    if row is None:
        raise ConflictError(
            f"{why} says {receipt.reference}, which is not a revision of {above}, the parent that the path names; "
            "publish under the path of what it was trained on.",
            code="parent_mismatch",
        )
    return row
