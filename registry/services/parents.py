"""The parent of a publish: proved by what the adapter was trained on, never guessed.

In this order: ``--parent``; the receipt (given, or that of the folder which ``base_model_name_or_path`` names); the
repo id and the revision of a Hub view in the configuration (`registry.services.hub_parent`); else the only revision
that the path's parent has. Proofs that contradict each other are refused. Above a token's scopes a number or a tag
could be tried out, and whoever publishes on a revision may read it: there only what the token sees in its own lineages,
a whole digest, or a commit, is proof.
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
from registry.services.hub_parent import Doubt, Place, Proof, TrainedOn, read_view
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


def find_parent(
    deployment: Deployment,
    path: TreePath,
    *,
    parent: str | None,
    receipt: GivenReceipt | None,
    trained_on: TrainedOn | None = None,
) -> Parent:
    """The parent revision of a new revision of ``path``.

    Args:
        deployment: where to look.
        path: the adapter that is published.
        parent: reference given by the user.
        receipt: given by the user, or found in the folder that the adapter was trained on.
        trained_on: the repo of a Hub view that the configuration names.

    Raises:
        NotFoundError: the base model, the adapter above or the given revision does not exist.
        UsageError: ``parent_ambiguous``, or the path is a base model.
        ConflictError: ``parent_mismatch``: the proofs contradict each other or the path.
    """
    above = path.parent
    if above is None:
        raise UsageError(f"{path} is a base model: the path of an adapter is expected, such as {path}/NAME.")
    with deployment.read() as session:
        base, candidates = bases.get(session, above.base), revisions.pinnable(session, path)
    found: list[_Said] = []
    if parent is not None:
        row = _by_reference(deployment, path, above, candidates, parent)
        found.append(_Said(f"--parent {parent}", Proof(row, f"given as {parent}")))
    if receipt is not None:
        row = _by_receipt(deployment, base, path, above, receipt)
        found.append(_Said(receipt.words, Proof(row, receipt.words)))
    if trained_on is not None:
        shown = read_view(deployment, Place(path, above, base, candidates), trained_on)
        if isinstance(shown, Proof):
            found.append(_Said(trained_on.words, shown))
        elif isinstance(shown, Doubt) and not found:
            raise shown.error
    if found:
        _check_agree(base, found)
        return Parent(base, found[0].proof.row, found[0].proof.reason)
    if above.is_base:
        return Parent(base, None, "the path is directly under the base model")
    return Parent(base, _only(deployment, above, candidates), f"the only revision of {above}")


@dataclass(frozen=True)
class _Said:
    what: str  # says it
    proof: Proof


def _check_agree(base: BaseRow, found: Sequence[_Said]) -> None:
    first, *others = found
    for other in others:
        if other.proof.row != first.proof.row:
            raise ConflictError(
                f"{first.what} says {_name(base, first.proof.row)}, but {other.what} says "
                f"{_name(base, other.proof.row)}; leave out the one that is wrong.",
                code="parent_mismatch",
            )


def _only(deployment: Deployment, above: TreePath, candidates: Sequence[RevisionRow]) -> RevisionRow:
    """The only revision that an adapter has.

    Raises:
        UsageError: ``parent_ambiguous``.
    """
    if not deployment.rights.sees(above):
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
    return candidates[0]


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
