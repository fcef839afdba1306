"""Revisions: found by reference, with their lineage and files. `registry.catalogue.changes.publish` makes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, get_args

from sqlalchemy import BindParameter, Integer, Select, bindparam, exists, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database import visibility
from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import (
    HAS_REVISIONS,
    Adapter,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    Tag,
)
from registry.catalogue.database.visibility import IGNORE_RIGHTS
from registry.catalogue.store.blobs import BLOB_COLUMNS
from registry.catalogue.tree import bases
from registry.catalogue.tree.ancestry import newest_number, retraction_of
from registry.catalogue.tree.order import did_you_mean, offered
from registry.digest import PREFIX, StoredFile, is_digest
from registry.errors import NotFoundError, UsageError
from registry.reference import Path, Reference
from registry.schemas import Retraction

_Found = Select[*tuple[Any, ...]]
Kind = Literal["newest", "number", "tag", "digest", "prefix"]

_ABOVE: Final = aliased(Adapter)
_CANDIDATES: Final = 5000  # names among which the nearest is looked for
_NUMBERED: Final = re.compile(r"(?:v|rev|version)-?([1-9][0-9]{0,17})")
_VERSION: Final = re.compile(r"v?\d+(\.\d+)+")
_NEWEST: Final = ("latest", "newest", "head", "current", "last")
_DIGITS: Final = re.compile(r"[0-9a-f]{8,64}")
# Columns, not records: what a session keeps of a record costs more than the query.
COLUMNS: Final = (
    Revision.id,
    Revision.adapter_id,
    Revision.number,
    Revision.digest,
    Revision.parent_id,
    Revision.manifest,
    Revision.message,
    Revision.author,
    Revision.created_at,
    Revision.rank,
    Revision.parameters,
    Revision.size,
    Revision.trained_on,
    Revision.notices,
    Revision.retracted_at,
    Revision.retracted_reason,
    Revision.retracted_by,
    Revision.combined,
)


@dataclass(frozen=True)
class RevisionRow:
    """A revision with its manifest. ``parent`` is a reference ``PATH@N``, or the base model's name."""

    id: int
    adapter_id: int
    path: str
    number: int
    digest: str
    parent_id: int | None
    parent: str
    base_id: int
    base: str
    manifest: str
    message: str
    author: str
    created_at: datetime
    rank: int
    parameters: int
    size: int
    trained_on: str | None
    notices: tuple[str, ...]
    retracted: Retraction | None  # of this very revision; as a link of a path, also of one that it is combined of
    combined: bool = False

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return f"{self.path}@{self.number}"


def find(session: Session, reference: Reference) -> RevisionRow:
    """The revision that a reference means now.

    Raises:
        NotFoundError: naming what is missing and offering the nearest.
        UsageError: a digest prefix that several revisions share, or the reference of a base model.
    """
    kind, value = selector(reference)
    found: Sequence[RevisionRow] = ()
    if not reference.path.is_base:
        found = _rows_of(session, _MEANT[kind], {"path": str(reference.path), "value": value, "end": f"{value}g"})
    if not found:
        raise _missing_revision(session, reference, adapter(session, reference.path))
    if reference.digest_prefix is not None and len(found) > 1:
        numbers = " and ".join(f"@{row.number}" for row in reversed(found))
        raise UsageError(f"{reference} matches several revisions, including {numbers}: give more digits or a number.")
    return found[0]


def get(session: Session, revision_id: int) -> RevisionRow:
    """A revision by its row's key.

    Raises:
        NotFoundError: it does not exist any more.
    """
    found = _rows_of(session, _ONE, {"id": revision_id})
    if not found:
        raise NotFoundError("The revision no longer exists.")
    return found[0]


def pinnable(
    session: Session, path: Path, *, digest: str | None = None, number: int | None = None, limit: int | None = None
) -> tuple[RevisionRow, ...]:
    """Revisions that a revision of the adapter ``path`` may be pinned to, newest first, at most ``limit``.

    With ``digest`` or ``number``, only that one. If the session does not see the adapter above, it knows of the
    revisions that those it sees were trained on, and of one whose whole digest it knows: from a receipt.

    Raises:
        NotFoundError: no adapter exists above ``path``.
    """
    above = path.parent
    if above is None or above.is_base:
        return ()
    hidden = digest is None and not visibility.rights_of(session).covers(above)
    values = {"above": str(above), "path": str(path), "digest": digest, "number": number, "limit": limit}
    found = _rows_of(
        session,
        _pinnable(hidden, digest is not None, number is not None, limit is not None),
        {name: value for name, value in values.items() if value is not None},
    )
    if not found:
        try:
            adapter(session, above, ignore_rights=True)
        except NotFoundError as problem:
            if not is_there(session, Path(path.base)):
                raise
            raise NotFoundError(f"{problem} {above} has to be there before {path}, which stands on it.") from None
    return tuple(found)


def with_digest(session: Session, path: Path, digest: str) -> str | None:
    """The reference of an adapter's revision with exactly this digest; None: no such revision or adapter exists."""
    number = session.scalar(_number_of(), {"path": str(path), "digest": digest})
    return None if number is None else f"{path}@{number}"


def with_files(session: Session, path: Path, files: Mapping[str, str], *, limit: int) -> tuple[int, ...]:
    """The keys of an adapter's revisions that have these files, digests by name; newest first."""
    query = select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id).where(Adapter.path == str(path))
    for name, digest in files.items():
        of_it = (RevisionFile.revision_id == Revision.id) & (RevisionFile.path == name)
        query = query.where(exists().where(of_it & (RevisionFile.digest == digest)))
    return tuple(session.scalars(query.order_by(Revision.number.desc()).limit(limit)))


def anywhere(session: Session, digest: str) -> str | None:
    """The reference of the first revision, by path, with this digest: of a receipt without names. It reads all rows."""
    query = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    found = session.execute(query.where(Revision.digest == digest).order_by(Adapter.path).limit(1)).one_or_none()
    return None if found is None else f"{found.path}@{found.number}"


def digests(session: Session, path: Path, *, ignore_rights: bool = False) -> tuple[str, ...]:
    """The digests of all revisions of an adapter, newest first; none if the adapter does not exist."""
    query = select(Revision.digest).join(Adapter, Adapter.id == Revision.adapter_id).where(Adapter.path == str(path))
    newest = query.order_by(Revision.number.desc())
    return tuple(session.scalars(newest, execution_options=IGNORE_RIGHTS if ignore_rights else {}))


def lineage(session: Session, revision_id: int) -> tuple[RevisionRow, ...]:
    """The revisions from the one on the base model down to the given one, root first, inclusive.

    Composing needs all of them: those above the session's scopes are included.
    """
    # Ordered here: a join with the chain lets SQLite read the whole table.
    found = _rows_of(session, _CHAIN, {"id": revision_id})
    rows = {row.id: row for row in found}
    links: list[RevisionRow] = []
    at: int | None = revision_id if rows else None
    while at is not None:
        links.append(rows[at])
        at = rows[at].parent_id
    return tuple(reversed(links))


def manifest(session: Session, revision_id: int) -> str:
    """The canonical JSON text of a revision.

    Raises:
        NotFoundError: it does not exist any more.
    """
    return get(session, revision_id).manifest


def files(session: Session, revision_id: int) -> tuple[StoredFile, ...]:
    """The files of a revision, by path."""
    rows = reading(session).rows(_FILES, {"id": revision_id})
    return tuple(sorted((StoredFile(*row) for row in rows), key=lambda file: file.path))


def adapter(session: Session, path: Path, *, ignore_rights: bool = False) -> int:
    """The key of an adapter's row; with ``ignore_rights``, also of one that the session does not see.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: the path names a base model.
    """
    if path.is_base:
        bases.get(session, path.base)
        raise UsageError(f"{path} is a base model: the path of an adapter is expected, such as {path}/NAME.")
    query = select(Adapter.id).where(Adapter.path == str(path), HAS_REVISIONS)
    found = session.scalar(query, execution_options=IGNORE_RIGHTS if ignore_rights else {})
    if found is None:
        raise missing_adapter(session, path)
    return found


def is_there(session: Session, path: Path) -> bool:
    """Whether the session sees a base model, or an adapter with revisions, at a path."""
    if path.is_base:
        return session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base)) is not None
    return session.scalar(select(Adapter.id).where(Adapter.path == str(path), HAS_REVISIONS)) is not None


def missing_adapter(session: Session, path: Path) -> NotFoundError:
    """The error for an adapter that does not exist: names the first segment that does not exist."""
    if session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base)) is None:
        return bases.missing(session, path.base)
    above = [Path(path.base, path.names[:count]) for count in range(1, len(path.names) + 1)]
    there = set(session.scalars(select(Adapter.path).where(Adapter.path.in_(map(str, above)), HAS_REVISIONS)))
    # Those above one that is seen may be hidden.
    first = next((one for one, over in zip(above[::-1], above[-2::-1], strict=False) if str(over) in there), above[0])
    names = session.scalars(
        select(Adapter.path)
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .where(BaseModelRecord.name == path.base, HAS_REVISIONS)
        .limit(_CANDIDATES)
    ).all()
    hint = did_you_mean(str(path), names) or offered(str(first), names, "adapters")
    return NotFoundError(f"There is no adapter {first}.{hint}")


def selector(reference: Reference) -> tuple[Kind, str | int | None]:
    """How a reference selects a revision of its adapter."""
    if reference.number is not None:
        return "number", reference.number
    if reference.tag is not None:
        return "tag", reference.tag
    if reference.digest_prefix is None:
        return "newest", None
    return "digest" if is_digest(reference.digest_prefix) else "prefix", reference.digest_prefix


def _missing_revision(session: Session, reference: Reference, adapter_id: int) -> NotFoundError:
    numbers = session.scalars(
        select(Revision.number).where(Revision.adapter_id == adapter_id).order_by(Revision.number.desc())
    ).all()
    path = reference.path
    if not numbers:
        return NotFoundError(f"{path} has no revisions.")
    if reference.number is not None:
        near = min(numbers, key=lambda number: (abs(number - reference.number), -number) if reference.number else ())
        newest = "" if near == numbers[0] else f", the nearest is {path}@{near}"
        return NotFoundError(f"{path} has no revision {reference.number}: its newest is {path}@{numbers[0]}{newest}.")
    if reference.tag is not None:
        if meant := _meant_by_tag(session, path, reference.tag, numbers):
            return NotFoundError(f"{path} has no tag {reference.tag}: {meant}.")
        tags = session.scalars(select(Tag.name).where(Tag.adapter_id == adapter_id)).all()
        hint = offered(reference.tag, tags, f"tags of {path}") if tags else " It has no tags."
        return NotFoundError(f"{path} has no tag {reference.tag}.{hint}")
    digits = (reference.digest_prefix or "").removeprefix(PREFIX)
    return NotFoundError(
        f"{path} has no revision whose digest begins with {digits}: its newest is {path}@{numbers[0]}."
    )


def _meant_by_tag(session: Session, path: Path, tag: str, numbers: Sequence[int]) -> str | None:
    """What a tag that does not exist names elsewhere: a number, the newest revision, or a digest."""
    number = _NUMBERED.fullmatch(tag)
    if number is not None and int(number[1]) in numbers:
        return f"its revision {number[1]} is {path}@{number[1]}"
    if _VERSION.fullmatch(tag):
        return f"revisions are numbers, and its newest is {path}@{numbers[0]}"
    if tag in _NEWEST:
        return f"its newest revision is {path} without a tag, now {path}@{numbers[0]}"
    if _DIGITS.fullmatch(tag) and any(digest.startswith(PREFIX + tag) for digest in digests(session, path)):
        return f"a revision is named by its digest as {path}@{PREFIX}{tag}"
    return None


# Made once: they take longer to make than to run.


@cache
def _rows() -> _Found:
    parent, parent_adapter = aliased(Revision), aliased(Adapter)
    return (
        select(
            *COLUMNS,
            Adapter.path,
            Adapter.base_id,
            BaseModelRecord.name.label("base"),
            parent_adapter.path.label("parent_path"),
            parent.number.label("parent_number"),
        )
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .outerjoin(parent, parent.id == Revision.parent_id)
        .outerjoin(parent_adapter, parent_adapter.id == parent.adapter_id)
    )


def _chain() -> _Found:
    """A revision and everything above it."""
    chain = select(Revision.id, Revision.parent_id).where(Revision.id == bindparam("id")).cte("chain", recursive=True)
    above = aliased(Revision)
    chain = chain.union_all(select(above.id, above.parent_id).join(chain, above.id == chain.c.parent_id))
    return _rows().where(Revision.id.in_(select(chain.c.id)))


@cache
def _number_of() -> Select[int]:
    query = select(Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    return query.where(Adapter.path == bindparam("path"), Revision.digest == bindparam("digest"))


@cache
def _pinnable(hidden: bool, by_digest: bool, by_number: bool, limited: bool) -> Prepared:
    """The revisions of the adapter ``above``; ``hidden``: only those that a revision of ``path`` was trained on."""
    own = select(_ABOVE.id).where(_ABOVE.path == bindparam("above")).scalar_subquery()  # looked up once, not joined
    query = _rows().where(Revision.adapter_id == own).order_by(Revision.number.desc())
    if by_digest:
        query = query.where(Revision.digest == bindparam("digest"))
    if by_number:
        query = query.where(Revision.number == bindparam("number"))
    if hidden:
        child, below = aliased(Revision), aliased(Adapter)
        seen = select(child.parent_id).join(below, below.id == child.adapter_id)
        query = query.where(Revision.id.in_(seen.where(below.path == bindparam("path"))))
    if limited:
        query = query.limit(bindparam("limit", type_=Integer()))
    return Prepared(lambda _: query, ignore_rights=True)


def selected(query: _Found, kind: Kind) -> _Found:
    """The revisions of the adapter ``path`` that are selected by ``value``; two if it is ambiguous.

    Args:
        query: of columns of revisions and their adapters.
        kind: what selects; see `selector`.
    """
    query = query.where(Adapter.path == bindparam("path"))
    value: BindParameter[Any] = bindparam("value")
    if kind == "newest":
        # By its number, not in order: PostgreSQL expects few revisions of any adapter, and would sort 200,000.
        return query.where(Revision.number == newest_number(Adapter.id))
    if kind == "number":
        return query.where(Revision.number == value)
    if kind == "tag":
        return query.join(Tag, Tag.revision_id == Revision.id).where(Tag.adapter_id == Adapter.id, Tag.name == value)
    if kind == "digest":
        return query.where(Revision.digest == value)
    # Hex digits end before "g": a range uses the index on every database, LIKE does not.
    within = query.where(Revision.digest >= value, Revision.digest < bindparam("end"))
    return within.order_by(Revision.number.desc()).limit(2)


_ONE: Final = Prepared(lambda _: _rows().where(Revision.id == bindparam("id")))
_CHAIN: Final = Prepared(lambda _: _chain(), ignore_rights=True)
_MEANT: Final = {kind: Prepared(lambda _, kind=kind: selected(_rows(), kind)) for kind in get_args(Kind)}  # type: ignore[misc]
_FILES: Final = Prepared(
    lambda _: (
        select(*BLOB_COLUMNS, RevisionFile.path)
        .join(Blob, Blob.digest == RevisionFile.digest)
        .where(RevisionFile.revision_id == bindparam("id"))
    )
)


def _rows_of(session: Session, query: Prepared, values: Mapping[str, object]) -> list[RevisionRow]:
    return [
        row_of(row, row.base if row.parent_path is None else f"{row.parent_path}@{row.parent_number}")
        for row in reading(session).rows(query, values)
    ]


def row_of(row: Any, parent: str) -> RevisionRow:
    """A row of `COLUMNS`, with the path of its adapter and the key and name of its base model."""
    return RevisionRow(
        id=row.id,
        adapter_id=row.adapter_id,
        path=row.path,
        number=row.number,
        digest=row.digest,
        parent_id=row.parent_id,
        parent=parent,
        base_id=row.base_id,
        base=row.base,
        manifest=row.manifest,
        message=row.message,
        author=row.author,
        created_at=row.created_at,
        rank=row.rank,
        parameters=row.parameters,
        size=row.size,
        trained_on=row.trained_on,
        notices=tuple(row.notices),
        retracted=retraction_of(row, row.path),
        combined=row.combined,
    )
