"""What the catalogue has about a draft, in one read transaction.

Its parent and lineage, whether the adapter has the very revision already, where the bytes of its files are, and what is
to be said about files that were composed or rebased for another place.

Nested folders are all checked before the first is published, so the parent of one may have a digest and no row yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from registry.catalogue.changes import tagging
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.uploads import UploadRow
from registry.catalogue.tree import bases, old_names, revisions
from registry.digest import is_digest
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import MAIN, Reference
from registry.reference import Path as TreePath
from registry.rights import Principal
from registry.schemas import DerivedFrom
from registry.schemas.artifacts import KINDS, TRAINED_ON
from registry.schemas.parents import strongest
from registry.schemas.transfer import FileClaim
from registry.services.artifacts.commits import RepoNames, is_commit
from registry.services.artifacts.load import path_in, path_to
from registry.services.intake.uploads import Wanted, wanted_bytes
from registry.services.publishing.draft import Combination, Draft, PinnedSource, revision_digest
from registry.services.publishing.hub_parent import Doubt, Place, Proof, TrainedOn, candidates_for, read_view
from registry.services.publishing.parent_weights import of_planned
from registry.services.publishing.parents import (
    COMBINED,
    NESTED,
    REBASED,
    Parent,
    PlannedRevision,
    Told,
    check_receipt,
    find_parent,
)
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.lineage.paths import LoadedPath


def named(session: Session, told: DerivedFrom | None) -> DerivedFrom | None:
    """The same with the reference that the revision has here, if the receipt is of an export without names."""
    if told is None or told.reference is not None or told.digest is None:
        return told
    return told.model_copy(update={"reference": revisions.anywhere(session, told.digest)})


def derivation_notices(session: Session, path: TreePath, told: DerivedFrom | None, parent: Parent) -> Iterator[str]:
    """Notices for what was rebased, and for an adapter whose receipt names what it copies or was composed for."""
    if told is None or told.digest is None or KINDS[told.kind].is_model:
        return
    if parent.known_by == REBASED:
        yield f"Rebased from {told.reference}, not trained: its files are those of {told.reference}, on another parent."
        return
    composed = KINDS[told.kind].is_composed
    own = revisions.with_digest(session, path, told.digest)
    if own is not None:
        form = "truncated" if told.rank is not None else "composed" if composed else "unchanged"
        yield (
            f"The receipt in its folder says that this is a {form} copy of {own}, a revision of the same "
            "adapter, without any further training."
        )
    if composed and told.since_digest != parent.revision_digest:
        stands = "the base model" if told.since_digest is None else "another revision"
        yield (
            f"The receipt in its folder says that this was composed for use on {stands}, but it is published on "
            f"{parent.reference}: the links between the two count twice, or are missing."
        )


def planned_parent(
    session: Session,
    path: TreePath,
    told: Told,
) -> Parent | None:
    """The parent of ``path``, if the revision of the folder above is only planned; None if it is published already.

    The answer must be the same as after the parent is published.

    Args:
        session: the read transaction of this publish.
        path: the adapter of the folder.
        told: the evidence of its parent, where ``told.parent`` is ``PATH@DIGEST``.

    Raises:
        NotFoundError: the base model does not exist.
        ConflictError: ``parent_mismatch``: the folder was trained on something else.
    """
    above, parent, receipt, trained_on = path.parent, told.parent, told.receipt, told.trained_on
    digest = None if parent is None else Reference.parse(parent).digest_prefix
    if above is None or above.is_base or digest is None or not is_digest(digest) or _is_there(session, path, digest):
        return None
    base = bases.get(session, above.base)
    planned, reason, known_by = PlannedRevision(above, digest), NESTED, "assumed"
    if receipt is not None and receipt.shows_nothing:
        receipt = None
    if receipt is not None:
        check_receipt(base, receipt)
        if receipt.receipt.tip != digest:
            raise _mismatch(receipt.words, receipt.receipt.reference, path)
        reason, known_by = receipt.words, receipt.word
    if trained_on is not None:
        names = RepoNames.of(TRAINED_ON, above, base)
        named = trained_on.revision
        if trained_on.path == above and named is not None and is_commit(named) and names.find(named, [digest]):
            if receipt is None:
                reason, known_by = f"{trained_on.words} says so", "view"
            return _compared(Parent(base, None, reason, known_by, planned=planned), digest, told)
        shown = read_view(session, Place(path, above, base, _candidates(session, path)), trained_on)
        if isinstance(shown, Doubt) and not isinstance(shown.error, UsageError):
            raise shown.error
        if isinstance(shown, Proof) and named not in (None, MAIN):
            raise _mismatch(trained_on.words, shown.row.reference if shown.row else base.name, path)
    return _compared(Parent(base, None, reason, known_by, planned=planned), digest, told)


def _compared(parent: Parent, digest: str, told: Told) -> Parent:
    """The same parent, checked against the weights in the folder that the adapter was trained on."""
    if told.compared is None:
        return parent
    above = parent.planned.path if parent.planned else None
    word, notices = of_planned(str(above), digest, told.compared)
    if word is None:
        return replace(parent, notices=notices)
    reason = f"{parent.reason}, and its weights are those in {told.compared.words}"
    known_by = strongest([parent.known_by, word])
    return replace(parent, reason=reason, known_by=known_by, notices=notices)


def _is_there(session: Session, path: TreePath, digest: str) -> bool:
    try:
        return bool(revisions.pinnable(session, path, digest=digest))
    except NotFoundError:
        return False


def _candidates(session: Session, path: TreePath) -> tuple[revisions.RevisionRow, ...]:
    try:
        return candidates_for(session, path)
    except NotFoundError:
        return ()


def _mismatch(what: str, says: str, path: TreePath) -> ConflictError:
    return ConflictError(
        f"{what[:1].upper()}{what[1:]} says {says}, but the folder above {path} holds something else: put it below "
        "the folder of what it was trained on.",
        code="parent_mismatch",
    )


@dataclass(frozen=True)
class Claims:
    """The files that a client announces, and the ids of its uploads by digest."""

    files: Mapping[str, FileClaim]  # by name
    uploads: Mapping[str, str] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, tuple[str, int]]:
        """Digest and size by name."""
        return {path: (claim.digest, claim.size) for path, claim in self.files.items()}


@dataclass(frozen=True)
class Nesting:
    """Nested folders, which are planned before the first of them is published."""

    lineage: LoadedPath | None = None  # of the revision of the folder above, if that is only planned


@dataclass(frozen=True)
class Lookup:
    """What was found. Without claims, nothing is known of an existing revision, nor of bytes."""

    parent: Parent
    lineage: LoadedPath
    notices: tuple[str, ...]
    existing: str | None  # the reference of the adapter's revision of this digest
    wanted: Wanted | None  # None: that revision exists and has its bytes
    uploads: tuple[UploadRow, ...]  # of the claims: the open ones
    combination: Combination | None = None  # what it is a weighted sum of


def look_up(
    session: Session,
    principal: Principal,
    draft: Draft,
    config: LoraAdapterConfig,
    claims: Claims | None,
    nesting: Nesting | None,
) -> Lookup:
    """Look a draft up; ``nesting`` only if nothing is published yet.

    Raises:
        What `registry.services.publishing.candidates.check_draft` raises about its path and parent.
        UsageError: the size of a claimed file is not that of the stored bytes.
    """
    old_names.check_current(session, draft.path)
    for tag in draft.labels.tags:
        tagging.check_movable(session, draft.path, tag, principal)
    told = _told(draft, config)
    parent = planned_parent(session, draft.path, told) if nesting and told.nested else None
    lineage = nesting.lineage if nesting and parent else None
    if parent is None:
        parent = find_parent(session, draft.path, told)
    if lineage is None:
        lineage = path_to(session, parent.base, parent.row)
    notices = tuple(derivation_notices(session, draft.path, draft.derived_from, parent))
    combination = draft.combination or claimed_combination(session, draft)
    if claims is None:
        return Lookup(parent, lineage, notices, None, None, (), combination)
    digest = revision_digest(parent, config, claims.sizes, combination, draft.extracted, draft.trained_quantised)
    existing = revisions.with_digest(session, draft.path, digest)
    uploads = upload_rows.open_ones(session, claims.uploads, principal)
    wanted = None if existing else wanted_bytes(session, claims.files.values(), uploads)
    return Lookup(parent, lineage, notices, existing, wanted, uploads, combination)


def _told(draft: Draft, config: LoraAdapterConfig) -> Told:
    said, origin = draft.said, draft.origin
    # A copy keeps its parent: numbers and tags in its configuration are those of the source registry.
    name, taken = config.base_model_name_or_path, draft.source is not None
    view = TrainedOn.of(name, config.revision, taken=taken, loaded=said.loaded, cached=said.cached)
    return Told(
        parent=said.parent,
        skip_check=said.skip_check,
        nested=said.nested,
        receipt=said.receipt,
        trained_on=view if origin is None and not draft.rebased and draft.combination is None else None,
        compared=said.compared,
        name=name,
        word=_word(draft),
    )


def _word(draft: Draft) -> str | None:
    """How the parent is known, if it is settled."""
    if draft.combination is not None:
        return COMBINED
    if draft.rebased:
        return REBASED
    return None if draft.origin is None else draft.origin.parent_known_by


def claimed_combination(session: Session, draft: Draft) -> Combination | None:
    """What a copied combination is made of; None: it is none.

    Raises:
        NotFoundError: a source is not here, or the session does not see it.
        RetractedError: a source, or what it was trained on, was retracted here.
    """
    if not draft.claimed:
        return None
    found = []
    for claim in draft.claimed:
        reference = Reference.parse(claim.ref)
        try:
            row = revisions.find(session, reference)
        except NotFoundError as missing:
            raise NotFoundError(
                f"{draft.path} is combined of a revision of {reference.path} that is not here: copy that first, or "
                f"copy with -r, which takes sources along. {missing}"
            ) from None
        path_in(session, Reference(reference.path, number=row.number))  # refuses what was retracted
        found.append(PinnedSource(row.id, row.reference, row.digest, claim.weight))
    options = draft.truncated
    return Combination(tuple(found), *((options.rank, options.max_error) if options else ()))
