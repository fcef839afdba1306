"""The parent of a publish: proved by what the adapter was trained on, never guessed.

In this order: ``--parent``; the receipt (given, or that of the folder which ``base_model_name_or_path`` names); else
the only revision that the path's parent has. Above a token's scopes a number or a tag could be tried out, and whoever
publishes on a revision may read it: there only what the token sees in its own lineages, or a whole digest, is proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    seen = deployment.rights.sees(above)
    with deployment.read() as session:
        base, candidates = bases.get(session, above.base), revisions.pinnable(session, path)
    why = "" if receipt is None else receipt.words
    from_receipt = None if receipt is None else _Found(_by_receipt(deployment, base, path, above, receipt), why)
    if parent is not None:
        given = _Found(_by_reference(deployment, path, above, candidates, parent), f"given as {parent}")
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
    if not seen:
        raise UsageError(
            f"{above} is above what this token is for, and nothing shows which revision of it this adapter was trained "
            f"on; say it with --receipt FILE of the folder it was trained on, or with --parent {above}@sha256:DIGEST.",
            code="parent_ambiguous",
        )
    if len(candidates) > 1:
        names = ", ".join(row.reference for row in candidates[:_LISTED])
        raise UsageError(
            f"{above} has several revisions ({names}) and nothing shows which one this adapter was trained on; "
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


def _by_reference(
    deployment: Deployment, path: TreePath, above: TreePath, candidates: Sequence[RevisionRow], text: str
) -> RevisionRow | None:
    reference = Reference.parse(text)
    if reference.path != above:
        raise ConflictError(
            f"--parent {text} is not a revision of {above}, which the path names as the parent.", code="parent_mismatch"
        )
    if above.is_base:
        return None
    if deployment.rights.sees(above):
        with deployment.read() as session:
            return revisions.find(session, reference)
    if reference.digest_prefix is not None:
        found = _of_digest(deployment, path, reference.digest_prefix)
    else:
        found = next((row for row in candidates if row.number == reference.number), None)
    if found is None:
        raise NotFoundError(
            f"--parent {text} is nothing that this token sees, since {above} is above what it is for: give the whole "
            f"digest, as {above}@sha256:DIGEST, or --receipt FILE of the folder that the adapter was trained on."
        )
    return found


def _of_digest(deployment: Deployment, path: TreePath, digest: str) -> RevisionRow | None:
    """The revision above ``path`` of this whole digest, seen or not: it can't be guessed."""
    with deployment.read() as session:
        return next(iter(revisions.pinnable(session, path, digest=digest)), None)


def _by_receipt(
    deployment: Deployment, base: BaseRow, path: TreePath, above: TreePath, given: GivenReceipt
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
    row = None if receipt.tip is None else _of_digest(deployment, path, receipt.tip)
    if row is None:
        raise ConflictError(
            f"{why} says {receipt.reference}, which is not a revision of {above}, the parent that the path names; "
            "publish under the path of what it was trained on.",
            code="parent_mismatch",
        )
    return row
