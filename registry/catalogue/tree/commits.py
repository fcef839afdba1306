"""The digits of commits of the Hub views that say what is meant: computed, written beside revisions, and found.

A commit begins with them; `registry.services.artifacts.commits` makes the rest of it. They name one view, one path and
one state of the base model: so whoever renames a path or replaces a target table writes them anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, Protocol

from sqlalchemy import Select, bindparam, func, literal, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, BaseModelRecord, CommitRecord, Revision, table_of
from registry.catalogue.database.visibility import IGNORE_RIGHTS, in_subtree
from registry.digest import canonical_json
from registry.reference import Path
from registry.schemas.artifacts import KINDS, ArtifactKind

MEANT: Final = 28
"""Number of leading hex digits of a commit id that identify the meaning."""

_COMMITS: Final = table_of(CommitRecord)
_REVISIONS: Final = table_of(Revision)
_ADAPTERS: Final = table_of(Adapter)
_BASES: Final = table_of(BaseModelRecord)


class BaseDigests(Protocol):
    """The digests of a base model, from the catalogue or from a loaded path."""

    @property
    def digest(self) -> str: ...
    @property
    def files_digest(self) -> str: ...
    @property
    def table_digest(self) -> str: ...


def document(
    view: str, repo_id: str, revision: str | None, *, base: str, base_files: str, table: str
) -> dict[str, Any]:
    """What a commit means, as the document whose sha256 begins with its digits.

    Args:
        view: the kind of artifact, or ``base`` for a base model, which is the same in all views.
        repo_id: the repo.
        revision: digest of the revision; None: the base model itself.
        base: digest of the base model.
        base_files: digest of its files.
        table: digest of its target table.
    """
    about = {"base": base, "base_files": base_files, "table": table}
    return {"view": view, "repo": repo_id, "revision": revision, **about}


def digits_of(path: Path, revision: str, base: BaseDigests) -> dict[str, str]:
    """The digits of a revision, by its digest, in each view: the columns of its row."""
    given = {"base": base.digest, "base_files": base.files_digest, "table": base.table_digest}
    meant = {kind: canonical_json(document(kind, path.repo_id, revision, **given)) for kind in KINDS}
    return {kind: hashlib.sha256(text).hexdigest()[:MEANT] for kind, text in meant.items()}


def candidates(
    session: Session, kind: ArtifactKind, digits: str, *, ignore_rights: bool = False
) -> Iterator[tuple[Path, str]]:
    """Path and digest of the visible revisions, or of all, that may have these digits in the view of a kind.

    First what is recorded with them, then whatever a program of an older schema published: it recorded none, and they
    have to be computed.
    """
    options = IGNORE_RIGHTS if ignore_rights else {}
    for query in _recorded(kind):
        for row in session.execute(query, {"digits": digits}, execution_options=options):
            yield Path.parse(row.path), row.digest


@cache  # made once: they take longer to make than to run
def _recorded(kind: ArtifactKind) -> tuple[Select[*tuple[Any, ...]], ...]:
    # Two queries, since each has an index.
    query = (
        select(Adapter.path, Revision.digest)
        .select_from(CommitRecord)
        .join(Revision, Revision.id == CommitRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
    )
    return query.where(getattr(CommitRecord, kind) == bindparam("digits")), query.where(CommitRecord.merged.is_(None))


def write_missing(session: Session, limit: int) -> int:
    """Record the digits of revisions that have none, at most ``limit``; returns of how many."""
    keys = list(session.scalars(select(CommitRecord.revision_id).where(CommitRecord.merged.is_(None)).limit(limit)))
    if keys:
        _write(session, _REVISIONS.c.id.in_(keys))
    return len(keys)


def write_of_base(session: Session, base_id: int) -> None:
    """Record anew the digits of all revisions of a base model, deleted ones included."""
    _write(session, _ADAPTERS.c.base_id == base_id)


def write_under(session: Session, path: Path) -> None:
    """Record the digits of all revisions at and under a path."""
    _write(session, in_subtree(path, _ADAPTERS.c.path))


def _write(session: Session, chosen: ColumnElement[bool]) -> None:
    # In one statement, whatever their number.
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    values = {kind: _hashed(kind, is_postgresql=is_postgresql) for kind in KINDS}
    session.execute(
        update(_COMMITS)
        .values(values)
        .where(
            _REVISIONS.c.id == _COMMITS.c.revision_id,
            _ADAPTERS.c.id == _REVISIONS.c.adapter_id,
            _BASES.c.id == _ADAPTERS.c.base_id,
            chosen,
        )
    )


def _hashed(kind: str, *, is_postgresql: bool) -> ColumnElement[str]:
    """A column of `digits_of`, as an expression. Nothing in the document needs an escape in JSON."""
    below = func.replace(func.substr(_ADAPTERS.c.path, func.length(_BASES.c.name) + 2), "/", ".")
    text = _joined(
        '{"base":"',
        _BASES.c.digest,
        '","base_files":"',
        _BASES.c.files_digest,
        '","repo":"',
        _BASES.c.name,
        "/",
        below,
        '","revision":"',
        _REVISIONS.c.digest,
        '","table":"',
        _BASES.c.table_digest,
        f'","view":"{kind}"}}',
    )
    whole = func.encode(func.sha256(func.convert_to(text, "UTF8")), "hex") if is_postgresql else func.sha256_hex(text)
    return func.substr(whole, 1, MEANT)


def _joined(*parts: Any) -> ColumnElement[str]:
    found = literal(parts[0])
    for part in parts[1:]:
        found = found + part
    return found
