"""Base models: the frozen roots of the tree, known by the digest of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, or_, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseFile, BaseModelRecord, Blob
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import BLOB_COLUMNS
from registry.catalogue.tree import provenance
from registry.catalogue.tree.old_names import adapter_is_listed, base_is_listed, visible_names, visible_new_name
from registry.catalogue.tree.suggestions import offered
from registry.digest import BlobRef, StoredFile
from registry.errors import NotFoundError
from registry.reference import hub_name
from registry.rights import Rights
from registry.schemas import BaseSummary, FileEntry


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
    source: str | None = None  # hf:ORG/REPO@COMMIT, and " at ENDPOINT" where that is another; None: a folder

    @property
    def hub_name(self) -> str:
        """What cards call it."""
        return hub_name(self.name, self.source)


def get(session: Session, name: str) -> BaseRow:
    """A base model.

    Raises:
        NotFoundError: there is none of this name; offers the nearest.
    """
    rows = reading(session).rows(_WITH_BLOBS, {"name": name})
    if not rows:
        raise missing(session, name)
    index, table, file, own = 4, 8, 13, rows[0]  # where the columns of the blobs end
    return BaseRow(
        id=own.id,
        name=own.name,
        digest=own.weights,
        table_digest=own.table_digest,
        files_digest=own.files_digest,
        architecture=own.architecture,
        table_source=own.table_source,
        parameters=own.parameters,
        tensors=own.tensors,
        size=own.total,
        index=BlobRef(*own[:index]),
        table=BlobRef(*own[index:table]),
        notices=tuple(own.notices),
        created_at=own.created_at,
        files=tuple(sorted((StoredFile(*row[table:file]) for row in rows), key=lambda one: one.path)),
        source=own.source,
    )


def _with_blobs(_: Rights) -> Select[*tuple[Any, ...]]:
    """A base model with the blobs of its documents and files, a row a file: the base model's own columns last."""
    index, table = aliased(Blob), aliased(Blob)
    documents = [
        getattr(blob, column.key).label(f"{name}_blob_{column.key}")
        for name, blob in (("index", index), ("table", table))
        for column in BLOB_COLUMNS
    ]
    return (
        select(
            *documents,
            *BLOB_COLUMNS,
            BaseFile.path,
            BaseModelRecord.id,
            BaseModelRecord.name,
            BaseModelRecord.digest.label("weights"),  # files have a digest and a size too
            BaseModelRecord.table_digest,
            BaseModelRecord.files_digest,
            BaseModelRecord.architecture,
            BaseModelRecord.table_source,
            BaseModelRecord.parameters,
            BaseModelRecord.tensors,
            BaseModelRecord.size.label("total"),
            BaseModelRecord.notices,
            BaseModelRecord.created_at,
            BaseModelRecord.source,
        )
        .join(index, index.digest == BaseModelRecord.index_blob)
        .join(table, table.digest == BaseModelRecord.table_blob)
        .join(BaseFile, BaseFile.base_id == BaseModelRecord.id)
        .join(Blob, Blob.digest == BaseFile.digest)
        .where(BaseModelRecord.name == bindparam("name"))
    )


_WITH_BLOBS: Final = Prepared(_with_blobs)


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
    hint = offered(name, names, "base models") if names else " Add one with `registry base add`."
    return NotFoundError(f"There is no base model {name}.{hint}")


def summary(session: Session, name: str) -> BaseSummary:
    """A base model, as lists show it.

    Raises:
        NotFoundError: there is none of this name; offers the nearest.
    """
    rows = reading(session).rows(_OF_NAME, {"name": name})
    if not rows:
        raise missing(session, name)
    return _summaries(session, rows, {row.id: _files_of(session, row.id) for row in rows})[0]


def summaries(
    session: Session, *, with_old_names: bool = False, after: str | None = None, limit: int | None = None
) -> tuple[BaseSummary, ...]:
    """All base models, by name; those after a name, at most ``limit``."""
    query = select(BaseModelRecord).order_by(BaseModelRecord.name).limit(limit)
    if not with_old_names:
        query = query.where(base_is_listed(session))
    rows = session.scalars(query if after is None else query.where(BaseModelRecord.name > after)).all()
    return _summaries(session, rows, _files(session, *(row.id for row in rows)))


def _summaries(
    session: Session, rows: Sequence[Any], files: Mapping[int, tuple[StoredFile, ...]]
) -> tuple[BaseSummary, ...]:
    adapters = _adapters(session, rows)
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
            files=tuple(FileEntry(path=file.path, size=file.size, digest=file.digest) for file in files[row.id]),
            adapters=adapters.get(row.id, 0),
            created_at=row.created_at,
            notices=tuple(row.notices),
            source=row.source,
            derived_from=derived.get(row.id),
            renamed_to=row.renamed_to if row.renamed_to in new_names else None,
        )
        for row in rows
    )


def _adapters(session: Session, rows: Sequence[Any]) -> dict[int, int]:
    """How many adapters of each base model lists show; of an old name all of them."""
    current = [row.id for row in rows if row.renamed_to is None]
    if rights_of(session).unlimited:  # counted by triggers, old names among them
        reader = reading(session)
        hidden = {key: reader.rows(_UNLISTED, {"id": key})[0].adapters for key in current}
        return {row.id: row.live_adapters - hidden.get(row.id, 0) for row in rows}
    old = [row.id for row in rows if row.renamed_to is not None]
    query = select(Adapter.base_id, func.count()).where(HAS_REVISIONS).group_by(Adapter.base_id)
    listed = Adapter.base_id.in_(current) & adapter_is_listed(session)
    return dict(session.execute(query.where(or_(listed, Adapter.base_id.in_(old)))).all())


def _unlisted(rights: Rights) -> Select[*tuple[Any, ...]]:
    return select(func.count().label("adapters")).where(
        Adapter.base_id == bindparam("id"),
        Adapter.renamed_to.is_not(None),
        HAS_REVISIONS,
        visible_new_name(rights).is_not(None),
    )


_UNLISTED: Final = Prepared(_unlisted)
_OF_NAME: Final = Prepared(
    lambda _: select(*BaseModelRecord.__mapper__.column_attrs).where(BaseModelRecord.name == bindparam("name"))
)
_FILES: Final = Prepared(
    lambda _: (
        select(*BLOB_COLUMNS, BaseFile.path)
        .join(Blob, Blob.digest == BaseFile.digest)
        .where(BaseFile.base_id == bindparam("id"))
    )
)


def _files_of(session: Session, base_id: int) -> tuple[StoredFile, ...]:
    rows = reading(session).rows(_FILES, {"id": base_id})
    return tuple(sorted((StoredFile(*row) for row in rows), key=lambda file: file.path))


def _files(session: Session, *base_ids: int) -> dict[int, tuple[StoredFile, ...]]:
    query = (
        select(BaseFile.base_id, *BLOB_COLUMNS, BaseFile.path)
        .join(Blob, Blob.digest == BaseFile.digest)
        .where(BaseFile.base_id.in_(base_ids))
    )
    files: dict[int, list[StoredFile]] = {base_id: [] for base_id in base_ids}
    for row in session.execute(query):
        files[row.base_id].append(StoredFile(*row[1:]))
    return {base_id: tuple(sorted(found, key=lambda file: file.path)) for base_id, found in files.items()}
