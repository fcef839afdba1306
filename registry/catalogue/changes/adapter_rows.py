"""Inserts the row of an adapter with its first revision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from sqlalchemy import Insert, bindparam, exists, select
from sqlalchemy.orm import Session

from registry.catalogue.changes.revision_rows import renamed_meanwhile
from registry.catalogue.database.tables import Adapter, table_of
from registry.catalogue.database.upsert import insert_if_absent
from registry.catalogue.database.visibility import IGNORE_RIGHTS

_ADAPTERS: Final = table_of(Adapter)
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
    # An adapter above is asked again: what was read before the base model was held may be older than a rename.
    absent = cast(Insert, insert_if_absent(session, Adapter.path, Adapter.id)).from_select(_COLUMNS, _BELOW_CURRENT)
    made: int | None = session.execute(absent, given).scalar()
    if made is not None:
        return made
    there = select(Adapter.id).where(Adapter.path == values["path"])
    found = session.scalar(there, execution_options=IGNORE_RIGHTS)
    if found is None:
        raise renamed_meanwhile(values["path"])
    return found
