"""The recorded provenance of revisions and base models, filtered by visibility: see `registry.folders.receipts`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision
from registry.schemas import DerivedFrom


def kept(derived_from: DerivedFrom) -> dict[str, Any]:
    """The JSON document to store, without defaults."""
    return derived_from.model_dump(mode="json", exclude_defaults=True)


def shown(session: Session, told: Mapping[int, Mapping[str, Any] | None]) -> dict[int, DerivedFrom]:
    """The recorded provenance, by key, with the visible references, by their current names.

    A receipt may come from anywhere: a reference in it counts only if a revision of that path has that digest.
    """
    read = {key: _read(document) for key, document in told.items() if document}
    names = _names(session, read.values())
    return {key: _as_seen(one, names) for key, one in read.items()}


def _read(document: Mapping[str, Any]) -> DerivedFrom:
    """Fields of newer programs are ignored."""
    return DerivedFrom.model_validate({name: document[name] for name in document if name in DerivedFrom.model_fields})


def _as_seen(told: DerivedFrom, names: Mapping[tuple[str, str], str]) -> DerivedFrom:
    reference = names.get(_key(told.reference, told.digest))
    if reference is None:
        unnamed = {
            "reference": None,
            "digest": None,
            "since": None,
            "since_digest": None,
            "links": (),
            "weights": (),
            "plan": None,
        }
        return told.model_copy(update=unnamed)
    since = names.get(_key(told.since, told.since_digest))
    return told.model_copy(
        update={"reference": reference, "since": since, "since_digest": told.since_digest if since else None}
    )


def _key(reference: str | None, digest: str | None) -> tuple[str, str]:
    """Path and digest."""
    return (reference or "").partition("@")[0], digest or ""


def _names(session: Session, told: Iterable[DerivedFrom]) -> dict[tuple[str, str], str]:
    """References by path and digest: of those that exist and are seen."""
    wanted = {key for one in told for key in (_key(one.reference, one.digest), _key(one.since, one.since_digest))}
    paths, digests = {path for path, _ in wanted if "/" in path}, {digest for _, digest in wanted}
    found: dict[tuple[str, str], str] = {}
    if paths:
        revisions = select(Adapter.path, Revision.digest, Revision.number).join(
            Adapter, Adapter.id == Revision.adapter_id
        )
        for path, digest, number in session.execute(
            revisions.where(Adapter.path.in_(paths), Revision.digest.in_(digests))
        ):
            found[path, digest] = f"{path}@{number}"
    names = {path for path, _ in wanted if path and "/" not in path}
    if names:
        bases = select(BaseModelRecord.name, BaseModelRecord.digest).where(BaseModelRecord.name.in_(names))
        found |= {(name, digest): name for name, digest in session.execute(bases)}
    return found
