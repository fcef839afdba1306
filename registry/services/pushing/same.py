"""Whether an adapter has the pushed files already: clients send a commit again when its answer was lost, and trainers
push the last state again at the end of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.tree import revisions
from registry.errors import ConflictError, RetractedError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.reference import Path
from registry.schemas.transfer import FileClaim
from registry.services.deployment import Deployment
from registry.services.publishing.candidates import check_draft
from registry.services.publishing.draft import Draft, Said
from registry.services.publishing.lookup import Claims

_MOST: Final = 8
"""Revisions of the same files that are looked at: each is on another parent, or has another README.md."""


@dataclass(frozen=True)
class Same:
    """A revision with the same configuration and weights."""

    parent: str  # reference, or the name of the base model
    claims: Claims


def same_files(session: Session, path: Path, config: str, weights: str) -> tuple[Same, ...]:
    """The revisions of an adapter with these two files, by digest; newest first."""
    found = revisions.with_files(session, path, {ADAPTER_CONFIG: config, ADAPTER_WEIGHTS: weights}, limit=_MOST)
    return tuple(_same(session, path, key) for key in found)


def _same(session: Session, path: Path, key: int) -> Same:
    lineage = revisions.lineage(session, key)
    files = revisions.files(session, key)
    claims = {file.path: FileClaim(path=file.path, size=file.size, digest=file.digest) for file in files}
    return Same(lineage[-2].reference if len(lineage) > 1 else path.base, Claims(claims))


def existing(deployment: Deployment, draft: Draft, found: tuple[Same, ...]) -> Iterator[tuple[Draft, Claims]]:
    """Those that a draft is, with what is known of its parent: on another one, it is another revision."""
    for one in found:
        said = draft.said if draft.said.parent is not None else Said(one.parent, draft.said.receipt)
        same = replace(draft, said=said)
        try:
            candidate = check_draft(deployment, same, one.claims)
        except (ConflictError, RetractedError):
            continue
        if candidate.found.existing is not None:
            yield same, one.claims
