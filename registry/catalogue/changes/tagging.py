"""Tags: movable names for revisions.

Protected tags: patterns for the tags of a base model's adapters that only admins move.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import retraction
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, BaseModelRecord, EventRecord, Revision, Tag
from registry.catalogue.database.team_tables import ProtectedTagRecord
from registry.catalogue.tree import bases, revisions, tag_moves
from registry.catalogue.tree.order import offered
from registry.errors import ConflictError, NotAllowedError, NotFoundError, RetractedError, UsageError
from registry.reference import MAX_TAG, Path, Reference, check_tag
from registry.rights import Principal
from registry.schemas import ProtectedTag, Tagged
from registry.schemas.form import check_text

_PATTERN: Final = re.compile(r"[a-z0-9._*?\[\]!-]+")


def patterns(session: Session, base: str) -> tuple[ProtectedTag, ...]:
    """The protected patterns of a base model.

    Raises:
        NotFoundError: the base model does not exist; offers the nearest.
    """
    return tuple(ProtectedTag(base=base, pattern=pattern) for pattern in _patterns(session, _base_id(session, base)))


def protect(session: Session, base: str, pattern: str, principal: Principal) -> tuple[ProtectedTag, ...]:
    """Protect the tags that match a pattern (``prod``, ``release-*``); the answer is all that is protected now.

    Raises:
        UsageError: the pattern can match no tag.
        NotFoundError: the base model does not exist; offers the nearest.
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
        NotFoundError: the base model does not exist, or the pattern is not protected in it.
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


NO_REVISION: Final = "none"
"""What is expected of a tag that must not exist yet."""

_NUMBER: Final = re.compile(r"@?([1-9][0-9]{0,17})")


def set_tag(
    session: Session, revision_id: int, tag: str, principal: Principal, *, expected: str | None = None
) -> Tagged:
    """Let ``tag`` name a revision of its adapter, moving it if it named another.

    With ``expected`` (``@3``, ``PATH@3`` or ``none``) only if that is what it names now.

    Raises:
        UsageError: ``bad_name``, the tag is outside the grammar; or what is expected is malformed.
        NotFoundError: the revision does not exist any more.
        NotAllowedError: ``protected_tag``.
        ConflictError: ``tag_moved``.
    """
    check_tag(tag)
    # Locked against deletion until the transaction ends: a row marked as deleted could be tagged still.
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update(read=True, key_share=True))
    row = revisions.get(session, revision_id)
    path = Path.parse(row.path)
    check_movable(session, path, tag, principal)
    # One that is set concurrently violates a unique key: `Database.change` retries.
    held = _locked(session, row.adapter_id, tag)
    previous = None if held is None else _reference(session, row.path, held)
    _check_expected(path, tag, expected, previous)
    if held is None:
        session.add(Tag(adapter_id=row.adapter_id, name=tag, revision_id=revision_id))
    else:
        held.revision_id = revision_id
    if previous != row.reference:
        events.record(session, "tag", row.path, principal, {"tag": tag, "old": previous, "new": row.reference})
    session.flush()
    return Tagged(path=row.path, tag=tag, reference=row.reference, previous=previous)


def remove_tag(session: Session, path: Path, tag: str, principal: Principal, *, expected: str | None = None) -> Tagged:
    """Remove a tag of an adapter. ``expected``: see `set_tag`.

    Raises:
        UsageError: the tag is no text that can be stored, or what is expected is malformed.
        NotFoundError: the adapter or tag does not exist; offers the nearest.
        NotAllowedError: ``protected_tag``.
        ConflictError: ``tag_moved``.
    """
    adapter_id = revisions.adapter(session, path)
    held = _locked(session, adapter_id, check_text("The tag", tag))
    if held is None:
        raise _missing(session, adapter_id, path, tag)
    check_movable(session, path, tag, principal)
    previous = _reference(session, str(path), held)
    _check_expected(path, tag, expected, previous)
    session.delete(held)
    events.record(session, "untag", str(path), principal, {"tag": tag, "old": previous, "new": None})
    session.flush()
    return Tagged(path=str(path), tag=tag, reference=None, previous=previous)


def undo(session: Session, path: Path, tag: str, principal: Principal, *, expected: str | None = None) -> Tagged:
    """Undo the last change of a tag: it names again what it named before, or is removed if it was new.

    The undo is a change like any other, so that the next one undoes it. ``expected``: see `set_tag`.

    Raises:
        UsageError: the tag is no text that can be stored, or what is expected is malformed.
        NotFoundError: the adapter does not exist, the tag has no history, or what it named is deleted.
        RetractedError: what it named, or an ancestor of it, is retracted.
        NotAllowedError: ``protected_tag``.
        ConflictError: ``tag_moved``.
    """
    adapter_id = revisions.adapter(session, path)
    held = _locked(session, adapter_id, check_text("The tag", tag))
    named = None if held is None else _reference(session, str(path), held)
    change = tag_moves.last(session, path, tag)
    if change is None:
        raise _missing(session, adapter_id, path, tag)
    check_movable(session, path, tag, principal)
    _check_expected(path, tag, expected, named)
    if change.new != named:  # deleted by a program that did not note which tags went with it
        raise NotFoundError(f"It is not known what {path}@{tag} pointed at before: point it at a revision.")
    if change.old is None:
        return remove_tag(session, path, tag, principal)
    return set_tag(session, _to_go_back_to(session, f"{path}@{tag}", change.old), tag, principal)


def _to_go_back_to(session: Session, tag: str, reference: str) -> int:
    """The key of the revision that a tag named before."""
    try:
        key = revisions.find(session, Reference.parse(reference)).id
    except NotFoundError:
        raise NotFoundError(
            f"{tag} pointed at {reference} before, which is deleted: restore that first with `registry delete "
            f"{reference} --undo`, or point the tag at another revision."
        ) from None
    try:
        retraction.check(revisions.lineage(session, key))
    except RetractedError as error:
        raise RetractedError(f"{tag} pointed at {reference} before, which is not available: {error}") from None
    return key


def ever_named(session: Session, path: Path, tag: str | None) -> tuple[str, ...]:
    """The references of all revisions that a tag has named, oldest first; none if it names none now."""
    held = select(Tag.revision_id).join(Adapter, Adapter.id == Tag.adapter_id)
    if session.scalar(held.where(Adapter.path == str(path), Tag.name == tag)) is None:
        return ()
    noted = select(EventRecord.detail).where(EventRecord.action == "tag", EventRecord.subject == str(path))
    details = session.scalars(noted.order_by(EventRecord.id)).all()
    return tuple(dict.fromkeys(str(detail["new"]) for detail in details if detail.get("tag") == tag))


def _check_expected(path: Path, tag: str, expected: str | None, named: str | None) -> None:
    if expected is None:
        return
    wanted = _expected(path, expected)
    if wanted == named:
        return
    if wanted is None:
        message = f"{path}@{tag} exists already, and points at {named}: it was not changed."
    elif named is None:
        message = f"{path} has no tag {tag}, which was expected to point at {wanted}: it was not set."
    else:
        message = f"{path}@{tag} points at {named} and not at {wanted}: it was not changed."
    raise ConflictError(message, code="tag_moved")


def _expected(path: Path, text: str) -> str | None:
    """The reference that is expected of a tag; None: no tag is."""
    if text == NO_REVISION:
        return None
    number = _NUMBER.fullmatch(text.removeprefix(str(path)) if text.startswith(f"{path}@") else text)
    if number is None:
        raise UsageError(
            f"A tag of {path} can't be expected to point at {text!r}: give a number such as @3, or {NO_REVISION}."
        )
    return f"{path}@{number[1]}"


def _locked(session: Session, adapter_id: int, tag: str) -> Tag | None:
    return session.get(Tag, (adapter_id, tag), with_for_update=True)


def _missing(session: Session, adapter_id: int, path: Path, tag: str) -> NotFoundError:
    tags = session.scalars(select(Tag.name).where(Tag.adapter_id == adapter_id)).all()
    hint = offered(tag, tags, f"tags of {path}") if tags else " It has no tags."
    return NotFoundError(f"{path} has no tag {tag}.{hint}")


def _reference(session: Session, path: str, tag: Tag) -> str:
    number = session.scalar(select(Revision.number).where(Revision.id == tag.revision_id))
    return f"{path}@{number}"
