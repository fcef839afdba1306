"""What the catalogue says about a draft, in one read transaction.

Its parent and lineage, whether the adapter has the very revision already, and where the bytes of its files are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from registry.catalogue.changes import protection
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.uploads import UploadRow
from registry.catalogue.tree import old_names, revisions
from registry.errors import NotFoundError
from registry.reference import Reference
from registry.rights import Principal
from registry.schemas.transfer import FileClaim
from registry.services.artifacts.load import path_in, path_to
from registry.services.intake.wanted import Wanted, wanted_bytes
from registry.services.lineage import LoadedPath
from registry.services.publishing.derivation import derivation_notices
from registry.services.publishing.draft import Combination, Draft, PinnedSource
from registry.services.publishing.hub_parent import TrainedOn
from registry.services.publishing.manifests import revision_digest
from registry.services.publishing.nested_parent import planned_parent
from registry.services.publishing.parents import COMBINED, REBASED, Parent, Told, find_parent
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig


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
    wanted: Wanted | None  # None where there is such a revision: it has its bytes
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
    """Look a draft up; ``nesting`` only where nothing is published yet.

    Raises:
        What `registry.services.publishing.candidates.check_draft` raises about its path and parent.
        UsageError: the size of a claimed file is not that of the stored bytes.
    """
    old_names.check_current(session, draft.path)
    for tag in draft.labels.tags:
        protection.check_movable(session, draft.path, tag, principal)
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
    digest = revision_digest(parent, config, claims.sizes, combination, draft.extracted)
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
    """How the parent is known, where it is settled."""
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
