"""Inserts the rows of a new revision, and of its adapter if it is the first: one statement on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Insert,
    Select,
    Table,
    bindparam,
    column,
    exists,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.selectable import CTE

from registry.catalogue.database.tables import Adapter, CommitRecord, Revision, RevisionFile, RevisionTarget, table_of
from registry.catalogue.database.upsert import insert_if_absent
from registry.catalogue.database.visibility import IGNORE_RIGHTS

_ADAPTERS: Final = table_of(Adapter)
_REVISIONS: Final = table_of(Revision)
_COMMITS: Final = table_of(CommitRecord)
_FILES: Final = table_of(RevisionFile)
_TARGETS: Final = table_of(RevisionTarget)
_NEXT: Final = (  # updating the adapter's row locks the counter until the transaction ends
    update(_ADAPTERS)
    .where(_ADAPTERS.c.id == bindparam("adapter"), _ADAPTERS.c.renamed_to.is_(None))
    .values(next_number=_ADAPTERS.c.next_number + 1)
    .returning((_ADAPTERS.c.next_number - 1).label("number"))
)
_INSERT: Final = insert(_REVISIONS).returning(_REVISIONS.c.id)
_RECORD: Final = update(_COMMITS).where(_COMMITS.c.revision_id == bindparam("its_key"))

Rows = Sequence[Mapping[str, object]]


def write(
    session: Session,
    revision: Mapping[str, object],
    number: int | None,
    commits: Mapping[str, str],
    files: Rows,
    targets: Rows,
) -> tuple[int, int]:
    """Write a revision with its files and targets; its key and its number. Without ``number`` the next is taken.

    Args:
        session: a write transaction.
        revision: the values of its columns, but for the number.
        number: its number.
        commits: the digits of its commits, by kind.
        files: the same of its files, but for the revision's key.
        targets: the same of its targets.

    Raises:
        StaleDataError: without ``number``, the adapter was renamed; `Database.change` retries, and the reason is found.
    """
    if session.get_bind().dialect.name == "postgresql":
        given = {
            "commits": [commits],
            "files": list(files),
            "targets": list(targets),
            "adapter": revision["adapter_id"],
            "taken": number,
        }
        values = given | {f"its_{name}": value for name, value in revision.items()}
        found = session.execute(_at_once(tuple(revision), number is None), values).one_or_none()
        if found is None:
            raise renamed_meanwhile(revision["adapter_id"])
        return found.id, found.number
    if number is None:
        number = session.execute(_NEXT, {"adapter": revision["adapter_id"]}).scalar()
        if number is None:
            raise renamed_meanwhile(revision["adapter_id"])
    key = int(session.execute(_INSERT, {**revision, "number": number}).scalar_one())
    session.execute(_RECORD, {**commits, "its_key": key})  # a trigger has made the row
    for table, rows in ((_FILES, files), (_TARGETS, targets)):
        if rows:
            session.execute(insert(table), [{**row, "revision_id": key} for row in rows])
    return key, number


def renamed_meanwhile(adapter: object) -> StaleDataError:
    """The error for an adapter that has become an old name; `Database.change` retries, and then it is refused."""
    return StaleDataError(f"The adapter {adapter} was renamed in the meantime.")


@cache  # made once: it takes longer to make than to run
def _at_once(columns: tuple[str, ...], counted: bool) -> Select[*tuple[Any, ...]]:
    held = (_NEXT if counted else select(bindparam("taken", type_=BigInteger()).label("number"))).cte("held")
    # A value with the name of a column of `adapters` would be written to that column.
    values = [bindparam(f"its_{name}", type_=_REVISIONS.c[name].type) for name in columns]
    made = (
        insert(_REVISIONS)
        .from_select([*columns, "number"], select(*values, held.c.number))
        .returning(_REVISIONS.c.id, _REVISIONS.c.number)
        .cte("made")
    )
    return select(made.c.id, made.c.number).add_cte(
        _inserted(made, _COMMITS, "commits"), _inserted(made, _FILES, "files"), _inserted(made, _TARGETS, "targets")
    )


def _inserted(made: CTE, table: Table, name: str) -> CTE:
    """Rows of ``table`` that belong to the revision, from a list of JSON objects with its other columns."""
    types = {key: kind.type for key, kind in table.c.items() if key != "revision_id"}
    listed = func.json_to_recordset(bindparam(name, type_=JSON()))
    rows = listed.table_valued(*(column(key, kind) for key, kind in types.items()))
    each = rows.render_derived(with_types=True)
    chosen = select(made.c.id, *(each.c[key] for key in types)).select_from(made.join(each, true()))
    return insert(table).from_select(["revision_id", *types], chosen).cte(f"with_{name}")


_ABOVE: Final = _ADAPTERS.alias("above")
_COLUMNS: Final = ("path", "name", "base_id", "parent_id", "next_number", "created_at")
_BELOW_CURRENT: Final = select(*(bindparam(f"its_{name}", type_=_ADAPTERS.c[name].type) for name in _COLUMNS)).where(
    ~exists().where(_ABOVE.c.id == bindparam("its_parent_id"), _ABOVE.c.renamed_to.is_not(None))
)


def make_adapter(session: Session, values: Mapping[str, object]) -> int:
    """The key of a new adapter, or of one of its path that was created concurrently.

    Raises:
        StaleDataError: the adapter above was renamed; `Database.change` retries, and then it is refused.
    """
    given = {f"its_{name}": values[name] for name in _COLUMNS}
    # An adapter above is queried again: what was read before the base model was held may be older than a rename.
    absent = cast(Insert, insert_if_absent(session, Adapter.path, Adapter.id)).from_select(_COLUMNS, _BELOW_CURRENT)
    made: int | None = session.execute(absent, given).scalar()
    if made is not None:
        return made
    there = select(Adapter.id).where(Adapter.path == values["path"])
    found = session.scalar(there, execution_options=IGNORE_RIGHTS)
    if found is None:
        raise renamed_meanwhile(values["path"])
    return found
