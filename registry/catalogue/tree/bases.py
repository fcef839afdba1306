"""Base models: the frozen roots of the tree, known by the digest of their weights; and the norms recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, case, func, or_, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import (
    HAS_REVISIONS,
    Adapter,
    BaseFile,
    BaseModelRecord,
    BaseRepoId,
    Blob,
    Revision,
)
from registry.catalogue.database.upsert import collected, rows_in
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import BLOB_COLUMNS
from registry.catalogue.tree import provenance
from registry.catalogue.tree.old_names import adapter_is_listed, base_is_listed, visible_names, visible_new_name
from registry.catalogue.tree.order import offered
from registry.digest import BlobRef, StoredFile
from registry.errors import NotFoundError
from registry.reference import hub_name
from registry.rights import Rights
from registry.schemas import BaseSummary, FileEntry
from registry.schemas.usage import BaseFigures


@dataclass(frozen=True)
class NormsRow:
    """The norms of the slots of a target table."""

    format: int
    table_digest: str
    document: bytes


def norms_of(session: Session, name: str, digest: str, table_digest: str) -> NormsRow | None:
    """The norms of a base model with these weights and this target table; None if it is hidden, or has none."""
    query = (
        select(BaseNormsRecord.format, BaseNormsRecord.table_digest, BaseNormsRecord.document)
        .join(BaseModelRecord, BaseModelRecord.id == BaseNormsRecord.base_id)
        .where(BaseModelRecord.name == name, BaseModelRecord.digest == digest)
        .where(BaseNormsRecord.table_digest == table_digest)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else NormsRow(*row)


_WEIGHTS: Final = ".safetensors"


@dataclass(frozen=True)
class BaseRow:
    """Everything that is known about a base model."""

    id: int
    name: str
    digest: str
    table_digest: str
    files_digest: str
    architecture: str | None
    table_source: str
    parameters: int
    tensors: int
    size: int
    index: BlobRef  # the JSON that lists the tensors
    table: BlobRef  # the target table's JSON
    notices: tuple[str, ...]
    created_at: datetime
    files: tuple[StoredFile, ...]  # by path
    source: str | None = None  # hf:ORG/REPO@COMMIT, and " at ENDPOINT" if that is another; None: a folder

    @property
    def hub_name(self) -> str:
        """What cards call it."""
        return hub_name(self.name, self.source)


def get(session: Session, name: str) -> BaseRow:
    """A base model.

    Raises:
        NotFoundError: no base model has this name; offers the nearest.
    """
    row = reading(session).first(_WITH_BLOBS, {"name": name})
    if row is None:
        raise missing(session, name)
    return row_of(row)


def row_of(row: Any) -> BaseRow:
    """A base model from a row of `with_blobs`."""
    index, table = 4, 8  # where the columns of the blobs end
    return BaseRow(
        id=row.id,
        name=row.name,
        digest=row.digest,
        table_digest=row.table_digest,
        files_digest=row.files_digest,
        architecture=row.architecture,
        table_source=row.table_source,
        parameters=row.parameters,
        tensors=row.tensors,
        size=row.size,
        index=BlobRef(*row[:index]),
        table=BlobRef(*row[index:table]),
        notices=tuple(row.notices),
        created_at=row.created_at,
        files=tuple(sorted((StoredFile(*file) for file in rows_in(row.files)), key=lambda one: one.path)),
        source=row.source,
    )


def with_blobs() -> Select[*tuple[Any, ...]]:
    """The base model ``name`` with the blobs of its documents, which come first, and of its files."""
    index, table = aliased(Blob), aliased(Blob)
    documents = [
        getattr(blob, column.key).label(f"{name}_blob_{column.key}")
        for name, blob in (("index", index), ("table", table))
        for column in BLOB_COLUMNS
    ]
    files = collected(*BLOB_COLUMNS, BaseFile.path).join_from(BaseFile, Blob, Blob.digest == BaseFile.digest)
    return (
        select(
            *documents,
            BaseModelRecord.id,
            BaseModelRecord.name,
            BaseModelRecord.digest,
            BaseModelRecord.table_digest,
            BaseModelRecord.files_digest,
            BaseModelRecord.architecture,
            BaseModelRecord.table_source,
            BaseModelRecord.parameters,
            BaseModelRecord.tensors,
            BaseModelRecord.size,
            BaseModelRecord.notices,
            BaseModelRecord.created_at,
            BaseModelRecord.source,
            files.where(BaseFile.base_id == BaseModelRecord.id).scalar_subquery().label("files"),
        )
        .join(index, index.digest == BaseModelRecord.index_blob)
        .join(table, table.digest == BaseModelRecord.table_blob)
        .where(BaseModelRecord.name == bindparam("name"))
    )


_WITH_BLOBS: Final = Prepared(lambda _: with_blobs())


def missing(session: Session, name: str) -> NotFoundError:
    """The error for a base model that does not exist."""
    names = session.scalars(select(BaseModelRecord.name)).all()
    if of_name := session.scalars(
        select(Adapter.path).where(Adapter.path.endswith(f"/{name}", autoescape=True), HAS_REVISIONS).limit(3)
    ).all():
        return NotFoundError(
            f"There is no base model {name}, and every path begins with one. Did you mean "
            f"{' or '.join(sorted(of_name))}?"
        )
    dotted = name.replace(".", "/")
    if session.scalar(select(Adapter.path).where(Adapter.path == dotted, HAS_REVISIONS)) is not None:
        return NotFoundError(f"There is no base model {name}. Did you mean {dotted}?")
    hint = offered(name, names, "base models") if names else " Add one with `registry base add`."
    return NotFoundError(f"There is no base model {name}.{hint}")


def summary(session: Session, name: str) -> BaseSummary:
    """A base model, as lists show it.

    Raises:
        NotFoundError: no base model has this name; offers the nearest.
    """
    rows = reading(session).rows(_OF_NAME, {"name": name})
    if not rows:
        raise missing(session, name)
    return _summaries(session, rows)[0]


def summaries(
    session: Session,
    *,
    with_old_names: bool = False,
    with_figures: bool = False,
    after: str | None = None,
    limit: int | None = None,
) -> tuple[BaseSummary, ...]:
    """All base models, by name; those after a name, at most ``limit``."""
    query = _shown(rights_of(session)).order_by(BaseModelRecord.name).limit(limit)
    if not with_old_names:
        query = query.where(base_is_listed(session))
    rows = session.execute(query if after is None else query.where(BaseModelRecord.name > after)).all()
    found = _summaries(session, rows)
    if not with_figures:
        return found
    told = _all_figures(session, {row.id: base for row, base in zip(rows, found, strict=True)})
    return tuple(base.model_copy(update={"figures": told[row.id]}) for row, base in zip(rows, found, strict=True))


def _all_figures(session: Session, bases: Mapping[int, BaseSummary]) -> dict[int, BaseFigures]:
    """The figures of base models, by key: added up of an index that has all that is added up."""
    sums = session.execute(_sums(session, bases)).all()
    named = select(Revision.id, Adapter.path, Revision.number, Revision.created_at).join(
        Adapter, Adapter.id == Revision.adapter_id
    )
    newest = {row.id: row for row in session.execute(named.where(Revision.id.in_([row.newest for row in sums])))}
    found = {key: _figures(base, 0, 0, None) for key, base in bases.items()}
    for key, revisions, size, last in sums:
        found[key] = _figures(bases[key], int(revisions), int(size), newest[last])
    return found


def _sums(session: Session, bases: Mapping[int, BaseSummary]) -> Select[*tuple[Any, ...]]:
    """How many revisions the listed adapters of base models have, their bytes, and the key of the newest."""
    old = [key for key, base in bases.items() if base.renamed_to is not None]  # all below an old name are old, too
    listed = or_(Adapter.base_id.in_(old), adapter_is_listed(session))
    # By adapter first: joined with their adapters one by one, revisions take three times as long.
    each = select(
        Revision.adapter_id,
        func.count().label("count"),
        func.sum(Revision.size).label("size"),
        func.max(Revision.id).label("newest"),
    )
    one = each.group_by(Revision.adapter_id).subquery()
    return (
        select(Adapter.base_id, func.sum(one.c.count), func.sum(one.c.size), func.max(one.c.newest).label("newest"))
        .join(one, one.c.adapter_id == Adapter.id)
        .where(Adapter.base_id.in_(bases), listed)
        .group_by(Adapter.base_id)
    )


def _figures(base: BaseSummary, revisions: int, size: int, newest: Any | None) -> BaseFigures:
    weights = sum(file.size for file in base.files if file.path.endswith(_WEIGHTS))
    return BaseFigures(
        revisions=revisions,
        published=size,
        full_checkpoints=revisions * weights,
        newest=None if newest is None else f"{newest.path}@{newest.number}",
        last_published_at=None if newest is None else newest.created_at,
    )


def _summaries(session: Session, rows: Sequence[Any]) -> tuple[BaseSummary, ...]:
    derived = provenance.shown(session, {row.id: row.derived_from for row in rows})
    new_names = visible_names(session, (row.renamed_to for row in rows))
    return tuple(
        BaseSummary(
            name=row.name,
            digest=row.digest,
            table_digest=row.table_digest,
            architecture=row.architecture,
            table_source=row.table_source,
            parameters=row.parameters,
            tensors=row.tensors,
            size=row.size,
            files=tuple(
                FileEntry(path=path, size=size, digest=digest) for path, size, digest in sorted(rows_in(row.files))
            ),
            adapters=row.adapters,
            created_at=row.created_at,
            notices=tuple(row.notices),
            source=row.source,
            derived_from=derived.get(row.id),
            renamed_to=row.renamed_to if row.renamed_to in new_names else None,
            also_known_as=tuple(sorted(repo_id for (repo_id,) in rows_in(row.repo_ids))),
        )
        for row in rows
    )


def _shown(rights: Rights) -> Select[*tuple[Any, ...]]:
    # Attributes of the class: of columns of the mapper, a query knows no base models, and hides none.
    columns = [getattr(BaseModelRecord, column.key) for column in BaseModelRecord.__mapper__.column_attrs]
    files = collected(BaseFile.path, Blob.size, Blob.digest).join(Blob, Blob.digest == BaseFile.digest)
    repo_ids = collected(BaseRepoId.repo_id)
    return select(
        *columns,
        _adapters(rights).label("adapters"),
        files.where(BaseFile.base_id == BaseModelRecord.id).scalar_subquery().label("files"),
        repo_ids.where(BaseRepoId.base_id == BaseModelRecord.id).scalar_subquery().label("repo_ids"),
    )


def _adapters(rights: Rights) -> ColumnElement[int]:
    """How many adapters of a base model lists show; of an old name all of them."""
    is_old, renamed = BaseModelRecord.renamed_to.is_not(None), visible_new_name(rights)
    own = select(func.count()).where(Adapter.base_id == BaseModelRecord.id, HAS_REVISIONS)
    if rights.unlimited:  # counted by triggers, old names among them
        hidden = own.where(Adapter.renamed_to.is_not(None), renamed.is_not(None)).scalar_subquery()
        return case((is_old, BaseModelRecord.live_adapters), else_=BaseModelRecord.live_adapters - hidden)
    return own.where(or_(is_old, Adapter.renamed_to.is_(None), renamed.is_(None))).scalar_subquery()


_OF_NAME: Final = Prepared(lambda rights: _shown(rights).where(BaseModelRecord.name == bindparam("name")))
