"""Finding the parent of a publish, and how it is known.

In this order: ``--parent``; the receipt (given, or that of the folder which ``base_model_name_or_path`` names); the
repo id and the revision of a Hub view in the configuration (`.hub_parent`); the weights in that folder
(`.parent_weights`); else, called assumed, the only revision of the path's parent, or in nested folders the one that the
folder above was published as. A parent found in another way is checked against the weights in the folder, if these can
be compared. Contradicting proofs are refused.

Publishing on a revision gives read access to it, and above a token's scopes numbers and tags could be guessed. So above
them only revisions in the token's own lineages, whole digests and commits are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.database.visibility import rights_of
from registry.catalogue.tree import bases, old_names, repo_rows, revisions
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference, meant_alone
from registry.schemas import FolderCompared
from registry.schemas.artifacts import KINDS
from registry.schemas.parents import Policy, accepted, in_short, level_of, strongest
from registry.schemas.transfer import GivenReceipt
from registry.schemas.weights import as_read
from registry.services.publishing.hub_parent import (
    Doubt,
    Place,
    Proof,
    TrainedOn,
    candidates_for,
    names_source,
    read_view,
)
from registry.services.publishing.parent_weights import of_weights

NESTED = "assumed from the nesting: it stands for the folder above"
REBASED = "rebased"
"""How the parent of a revision is known that was put on it, and not trained on it."""
COMBINED = "combined"
"""How the parent of a combination is known: it is the ancestor that the deltas of its sources are taken over."""


@dataclass(frozen=True)
class Told:
    """All evidence of the parent of an adapter that is to be published."""

    parent: str | None = None  # reference given by the user
    skip_check: bool = False  # accept ``parent``, whatever the other evidence
    nested: bool = False  # ``parent`` is what the folder above was published as
    receipt: GivenReceipt | None = None  # given by the user, or found in the folder that was trained on
    trained_on: TrainedOn | None = None  # the repo of a Hub view that the configuration names
    compared: FolderCompared | None = None  # the comparison with the weights in the folder
    name: str | None = None  # base_model_name_or_path
    word: str | None = None  # how the parent is known, if settled: for a copy as in its source registry


@dataclass(frozen=True)
class PlannedRevision:
    """A revision that this run has checked but not published yet."""

    path: TreePath
    digest: str


@dataclass(frozen=True)
class Parent:
    """The pinned parent; ``row`` None: the base model itself, or a revision that is only planned."""

    base: BaseRow
    row: RevisionRow | None
    reason: str
    known_by: str
    notices: tuple[str, ...] = ()
    planned: PlannedRevision | None = None  # nested folders are checked before the first of them is published

    @property
    def reference(self) -> str:
        """``PATH@N``, the path of a planned revision, or the base model's name."""
        return self.row.reference if self.row else str(self.planned.path) if self.planned else self.base.name

    @property
    def digest(self) -> str:
        """Of the revision, or of the base's weights."""
        return self.revision_digest or self.base.digest

    @property
    def revision_digest(self) -> str | None:
        """Of the revision; None: the base model itself."""
        return self.row.digest if self.row else self.planned.digest if self.planned else None


def find_parent(session: Session, path: TreePath, told: Told) -> Parent:
    """The parent revision of a new revision of ``path``.

    Raises:
        NotFoundError: the base model, the adapter above or the given revision does not exist.
        UsageError: ``parent_ambiguous``, the path is a base model, or ``skip_check`` without ``parent``.
        ConflictError: ``parent_mismatch``: the proofs contradict each other or the path. ``parent_unproven``: the
            weights in the folder match no candidate.
    """
    above = path.parent
    if above is None:
        raise UsageError(f"{path} is a base model: the path of an adapter is expected, such as {path}/NAME.")
    if told.skip_check and told.parent is None:
        raise UsageError("--skip-parent-check needs --parent REF, which it accepts without a check.")
    base = bases.get(session, above.base)
    place = Place(path, above, base, candidates_for(session, path))
    found = list(_said(session, place, told))
    _check_agree(base, found)
    said = found[0] if found else None
    if said is not None:  # the strongest of the agreeing proofs: a receipt counts more than a typed name
        best = strongest([one.proof.known_by for one in found])
        said = _Said(said.what, Proof(said.proof.row, said.proof.reason, best))
    if told.word is not None and said is not None:
        return Parent(base, said.proof.row, said.proof.reason, told.word)
    notices = _later_receipt(told)
    if told.compared is not None and not told.skip_check:
        what, by_word = (said.what, said.proof) if said is not None else ("", None)
        proof, noticed = of_weights(session, place, told.compared, what, by_word)
        notices += noticed
        if proof is not None:
            return Parent(base, proof.row, proof.reason, proof.known_by, notices)
    if said is not None:
        return Parent(base, said.proof.row, said.proof.reason, said.proof.known_by, notices)
    return _unsaid(session, place, told, notices)


def _later_receipt(told: Told) -> tuple[str, ...]:
    """A notice about a receipt that shows nothing of its folder as it was when the training began."""
    if told.receipt is None or not told.receipt.shows_nothing or told.skip_check:
        return ()
    said = told.receipt
    what = f"{said.words[:1].upper()}{said.words[1:]}"
    where = said.receipt.reference
    if said.covered:
        notice = f"{what}, says {where}, but another adapter lies there, which loaders put on top"
        return (f"{notice}: it does not show the parent.",)
    notice = f"{what}, is newer than the adapter, so it does not show the parent"
    return (f"{notice}: it says {where}, which may have been fetched there since.",)


@dataclass(frozen=True)
class _Said:
    what: str  # the source of the proof, for messages
    proof: Proof


def _said(session: Session, place: Place, told: Told) -> Iterator[_Said]:
    """All evidence that names a parent, in order of precedence; the nesting of folders comes last."""
    named = told.parent is not None and not told.nested
    if told.parent is not None and named:
        row = _by_reference(session, place, told.parent)
        yield _Said(f"--parent {told.parent}", Proof(row, f"given as {told.parent}", "given"))
    if told.skip_check:
        return
    if told.receipt is not None and not told.receipt.shows_nothing:
        row = _by_receipt(session, place, told.receipt)
        word = told.receipt.word
        untold = " (its times are unknown)" if word == "receipt_untimed" else ""
        if row is None and not told.receipt.own and level_of(word) == "proven":
            word = "named"  # as the base's own folder: a model that was merged in memory leaves the same receipt
        yield _Said(told.receipt.words, Proof(row, f"{told.receipt.words}{untold}", word))
    if told.trained_on is not None:
        shown = read_view(session, place, told.trained_on)
        if isinstance(shown, Proof):
            yield _Said(told.trained_on.words, shown)
        elif (
            isinstance(shown, Doubt)
            and not named
            and (told.receipt is None or told.receipt.shows_nothing)
            and not _settled(told, shown)
        ):
            raise shown.error
    if told.parent is not None and told.nested:
        row = _by_reference(session, place, told.parent)
        yield _Said("the folder above it", Proof(row, NESTED, "assumed"))


def _settled(told: Told, doubt: Doubt) -> bool:
    """Whether a receipt, the weights or the folder above settle a doubt."""
    if told.receipt is not None and not told.receipt.shows_nothing:
        return True
    if told.compared is not None and told.compared.fitting:
        return True
    return told.nested and doubt.error.code == "parent_ambiguous"


def _unsaid(session: Session, place: Place, told: Told, notices: tuple[str, ...]) -> Parent:
    """The parent if no evidence names one: the only one possible, ``named`` or ``assumed``."""
    base, above = place.base, place.above
    named = None
    if told.compared is None:
        named = names_source(told.name, base.source, repo_rows.given_to(session, base.id))
    if named is False:
        notices = (
            *notices,
            f"The adapter says that it was trained on {told.name}, but {base.name} was taken from {base.source}.",
        )
    if above.is_base:
        if named:
            return Parent(base, None, f"the path is directly under {base.name}, which is {told.name}", "named", notices)
        return Parent(base, None, "the path is directly under the base model", "assumed", notices)
    row = _only(session, place, notices)
    if named:
        hint = (
            f"The adapter says that it was trained on {told.name}, which is {base.name} itself: if {above} was not "
            f"merged into it first, publish it directly under {base.name}."
        )
        notices = (*notices, hint)
    return Parent(base, row, f"the only revision of {above}", "assumed", notices)


def require_accepted(parent: Parent, policy: Policy) -> None:
    """Refuse a parent that a registry does not accept; raises `ConflictError` (``parent_unproven``)."""
    if accepted(parent.known_by, policy):
        return
    ways = "give that folder's receipt with --receipt FILE, or give the parent with --parent REF"
    if policy == "proven":
        ways += ", which counts as proven since it is on record with its author"
    raise ConflictError(
        f"This registry only accepts adapters whose parent is {_ACCEPTED[policy]} (REGISTRY_PARENTS={policy}), but the "
        f"parent of this one is only {in_short(parent.known_by)}: {parent.reference}, {parent.reason}. Publish from "
        f"the machine that has the folder it was trained on, {ways}.",
        code="parent_unproven",
    )


_ACCEPTED: Final[Mapping[Policy, str]] = {"any": "known at all", "stated": "proven or stated", "proven": "proven"}


def _check_agree(base: BaseRow, found: Sequence[_Said]) -> None:
    for other in found[1:]:
        first = found[0]
        if other.proof.row != first.proof.row:
            raise ConflictError(
                f"{first.what} says {_name(base, first.proof.row)}, but {other.what} says "
                f"{_name(base, other.proof.row)}; leave out the one that is wrong.",
                code="parent_mismatch",
            )


def _only(session: Session, place: Place, notices: Sequence[str]) -> RevisionRow:
    """The only revision that may be pinned; ``notices`` explain why other evidence did not help, for the error.

    Raises:
        UsageError: ``parent_ambiguous``.
    """
    above = place.above
    if not rights_of(session).sees(above):
        raise UsageError(
            f"{above} is outside the scope of this token, and nothing shows which revision of it this adapter was "
            f"trained on; give --receipt FILE of the folder it was trained on, or --parent {above}@sha256:DIGEST.",
            code="parent_ambiguous",
        )
    if len(place.candidates) > 1:
        why = "".join(f" {notice}" for notice in notices)
        raise UsageError(
            f"{above} has several revisions ({place.listed}) and nothing shows which one this adapter was trained on; "
            f"give --parent REF, or --receipt FILE of the folder it was trained on.{why}",
            code="parent_ambiguous",
        )
    return place.candidates[0]


def _name(base: BaseRow, row: RevisionRow | None) -> str:
    return row.reference if row else f"the base model {base.name}"


def _by_reference(session: Session, place: Place, text: str) -> RevisionRow | None:
    reference, above = Reference.parse(text), place.above
    if reference.path != above:
        reference = _by_new_name(session, reference, above)
    if reference.path != above:
        raise ConflictError(
            f"--parent {text} is not a revision of {above}, the parent given by the path{meant_alone(text, above)}.",
            code="parent_mismatch",
        )
    if above.is_base:
        return None
    if rights_of(session).sees(above):
        return revisions.find(session, reference)
    found = None
    if reference.digest_prefix is not None:
        found = _of_digest(session, place.path, reference.digest_prefix)
    elif reference.number is not None:
        found = place.numbered(session, reference.number)
    if found is None:
        raise NotFoundError(
            f"--parent {text} is not visible to this token, because {above} is outside its scope: give the full "
            f"digest, as {above}@sha256:DIGEST, or --receipt FILE of the folder that the adapter was trained on."
        )
    return found


def _by_new_name(session: Session, reference: Reference, above: TreePath) -> Reference:
    """The same revision by its new name, if it is named by an old name of ``above``."""
    if reference.path.is_base != above.is_base or old_names.new_name(session, reference.path) != str(above):
        return reference
    digest = None if above.is_base else revisions.find(session, reference).digest
    return Reference(above, digest_prefix=digest)


def _of_digest(session: Session, path: TreePath, digest: str) -> RevisionRow | None:
    """The parent revision for ``path`` with this whole digest, even if hidden: a digest can't be guessed."""
    return next(iter(revisions.pinnable(session, path, digest=digest)), None)


def _by_receipt(session: Session, place: Place, given: GivenReceipt) -> RevisionRow | None:
    """The revision that a receipt proves."""
    check_receipt(place.base, given)
    receipt, why, above = given.receipt, given.words, place.above
    digest = receipt.made_for if given.own else receipt.tip
    if digest is None and above.is_base:
        return None
    row = None if digest is None else _of_digest(session, place.path, digest)
    if row is None:
        if given.own:
            on = f"the revision {digest}" if digest else f"the base model {place.base.name}"
            raise ConflictError(
                f"{why} says that it goes on {on}, which is not a revision of {above}, the parent given by the path; "
                "publish it under the path of what it goes on.",
                code="parent_mismatch",
            )
        raise ConflictError(
            f"{why} says {receipt.reference}, which is not a revision of {above}, the parent given by the path; "
            "publish under the path of what it was trained on.",
            code="parent_mismatch",
        )
    return row


def check_receipt(base: BaseRow, given: GivenReceipt) -> None:
    """Check that a receipt can show a parent on a base model; raises `ConflictError` (``parent_mismatch``)."""
    receipt, why = given.receipt, given.words
    if not given.own and (KINDS[receipt.kind].tip_only or receipt.since is not None):
        raise ConflictError(
            f"{why} is for a {receipt.kind} artifact that is not the whole path; train on a merged one, or give the "
            "parent with --parent and leave the receipt out.",
            code="parent_mismatch",
        )
    if not given.own and receipt.weights:
        weighted = ", ".join(
            f"{link.reference} has {as_read(receipt.weights[link.digest])}"
            for link in receipt.lineage
            if link.digest in receipt.weights
        )
        raise ConflictError(
            f"{why} is for weights that no revision has, with weights of its links ({weighted}), so it shows no "
            "parent: publish such a path first, as `registry combine REF=WEIGHT PATH` makes it, and train on that.",
            code="parent_mismatch",
        )
    if receipt.plan.base != base.digest:
        raise ConflictError(
            f"{why} is for the base weights {receipt.plan.base}, but {base.name} has {base.digest}.",
            code="parent_mismatch",
        )
