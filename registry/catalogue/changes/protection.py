"""Protected tags: patterns for the tags of a base model's adapters that only admins move."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import BaseModelRecord
from registry.catalogue.database.team_tables import ProtectedTagRecord
from registry.catalogue.tree import bases
from registry.errors import NotAllowedError, NotFoundError, UsageError
from registry.reference import MAX_TAG, Path
from registry.rights import Principal
from registry.schemas import ProtectedTag
from registry.schemas.form import check_text

_PATTERN: Final = re.compile(r"[a-z0-9._*?\[\]!-]+")


def patterns(session: Session, base: str) -> tuple[ProtectedTag, ...]:
    """The protected patterns of a base model.

    Raises:
        NotFoundError: there is no such base model; offers the nearest.
    """
    return tuple(ProtectedTag(base=base, pattern=pattern) for pattern in _patterns(session, _base_id(session, base)))


def protect(session: Session, base: str, pattern: str, principal: Principal) -> tuple[ProtectedTag, ...]:
    """Protect the tags that match a pattern (``prod``, ``release-*``); the answer is all that is protected now.

    Raises:
        UsageError: the pattern can match no tag.
        NotFoundError: there is no such base model; offers the nearest.
    """
    _check_pattern(pattern)
    base_id = _base_id(session, base)
    if session.get(ProtectedTagRecord, (base_id, pattern)) is None:
        session.add(ProtectedTagRecord(base_id=base_id, pattern=pattern))
        session.flush()
        events.record(session, "protect tag", base, principal, {"pattern": pattern})
    return patterns(session, base)


def unprotect(session: Session, base: str, pattern: str, principal: Principal) -> tuple[ProtectedTag, ...]:
    """Undo `protect`; the answer is all that is protected now.

    Raises:
        UsageError: the pattern can match no tag.
        NotFoundError: there is no such base model, or the pattern is not protected there.
    """
    _check_pattern(pattern)
    row = session.get(ProtectedTagRecord, (_base_id(session, base), pattern), with_for_update=True)
    if row is None:
        found = ", ".join(one.pattern for one in patterns(session, base)) or "none"
        raise NotFoundError(f"The pattern {pattern!r} is not protected at {base}: the protected patterns are {found}.")
    session.delete(row)
    session.flush()
    events.record(session, "unprotect tag", base, principal, {"pattern": pattern})
    return patterns(session, base)


def check_movable(session: Session, path: Path, tag: str, principal: Principal) -> None:
    """Refuse to set, move or remove a protected tag to all but admins.

    Raises:
        NotAllowedError: ``protected_tag``, naming the pattern.
    """
    if principal.rights.role == "admin":
        return
    base_id = session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base))
    for pattern in () if base_id is None else _patterns(session, base_id):
        if fnmatchcase(tag, pattern):
            raise NotAllowedError(
                f"The tag {tag} of {path} is protected by the pattern {pattern!r} at {path.base}: only admins can "
                "move it.",
                code="protected_tag",
            )


def protected(session: Session, base: str, tags: Iterable[str]) -> frozenset[str]:
    """Those of some tags of a base model's adapters that only admins move."""
    found = tuple(one.pattern for one in patterns(session, base))
    return frozenset(tag for tag in tags if any(fnmatchcase(tag, pattern) for pattern in found))


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MAX_TAG or not _PATTERN.fullmatch(pattern):
        raise UsageError(
            f"The pattern {pattern!r} can't match a tag: at most {MAX_TAG} characters of a-z 0-9 . _ - * ? [ ] ! are "
            "expected."
        )


def _base_id(session: Session, base: str) -> int:
    check_text("The name of the base model", base)
    found = session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == base))
    if found is None:
        raise bases.missing(session, base)
    return found


def _patterns(session: Session, base_id: int) -> tuple[str, ...]:
    query = select(ProtectedTagRecord.pattern).where(ProtectedTagRecord.base_id == base_id)
    return tuple(session.scalars(query.order_by(ProtectedTagRecord.pattern)))
