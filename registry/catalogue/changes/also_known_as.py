"""Giving base models other repo ids, and taking them away: see `registry.catalogue.tree.repo_rows`."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Row, delete, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import BaseModelRecord, BaseRepoId
from registry.catalogue.database.upsert import insert_if_absent
from registry.catalogue.tree import bases, old_names, repo_rows
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import RESERVED, Path
from registry.rights import Principal
from registry.schemas.labels import AlsoKnownAs

_PART: Final = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPO_ID: Final = re.compile(f"{_PART}/{_PART}")


def give(session: Session, name: str, repo_id: str, principal: Principal) -> AlsoKnownAs:
    """Let a base model answer under another repo id, too; doing so again changes nothing.

    Raises:
        UsageError: ``bad_name``, the id is outside the grammar of Hubs.
        NotFoundError: the base model does not exist; offers the nearest.
        ConflictError: ``renamed``, the base model has an old name; ``name_taken``, the id is another's.
    """
    _check_id(repo_id)
    row = _lock(session, name)
    old_names.check_current(session, Path(name))
    if repo_rows.begins_with_a_base(session, repo_id):
        first = repo_id.partition("/")[0].lower()
        raise ConflictError(f"{repo_id} begins with {first}, which is a base model: its paths have such repo ids.")
    values = [{"repo_id": repo_id, "base_id": row.id}]
    if session.execute(insert_if_absent(session, BaseRepoId.repo_id, BaseRepoId.repo_id), values).first() is not None:
        events.record(session, "base also-known-as", name, principal, {"added": repo_id})
    elif session.scalar(select(BaseRepoId.base_id).where(BaseRepoId.repo_id == repo_id)) != row.id:
        raise _taken(session, repo_id)
    return _answer(session, name, row)


def take_away(session: Session, name: str, repo_id: str, principal: Principal) -> AlsoKnownAs:
    """Undo `give`.

    Raises:
        NotFoundError: the base model does not exist, or it does not have this id.
    """
    row = _lock(session, name)
    gone = delete(BaseRepoId).where(BaseRepoId.repo_id == repo_id, BaseRepoId.base_id == row.id)
    if session.execute(gone.returning(BaseRepoId.repo_id)).first() is None:
        given = ", ".join(repo_rows.given_to(session, row.id)) or "none"
        raise NotFoundError(f"{name} is not also known as {repo_id[:256]!r}: its other repo ids are {given}.")
    events.record(session, "base also-known-as", name, principal, {"removed": repo_id})
    return _answer(session, name, row)


def check_free(session: Session, name: str) -> None:
    """Refuse a name for a base model with which other repo ids begin: its paths would have them.

    Raises:
        ConflictError: ``name_taken``, naming one of the ids.
    """
    begins = func.lower(BaseRepoId.repo_id).startswith(f"{name}/", autoescape=True)
    found = session.scalar(select(BaseRepoId.repo_id).where(begins).order_by(BaseRepoId.repo_id).limit(1))
    if found is not None:
        raise ConflictError(
            f"A base model is also known as {found}, so none can be called {name}: choose another name, or take the "
            "repo id away with `registry base also-known-as --remove`."
        )


def _check_id(repo_id: str) -> None:
    first, _, second = repo_id.partition("/")
    wrong = ".." in repo_id or "--" in repo_id or repo_id.endswith(".git")
    if not _REPO_ID.fullmatch(repo_id) or wrong or {first, second} & RESERVED:
        raise UsageError(
            f"{repo_id[:256]!r} is no repo id of a Hub: ORG/NAME is expected, such as meta-llama/Llama-3.2-1B.",
            code="bad_name",
        )


def _lock(session: Session, name: str) -> Row[int, str | None]:
    held = select(BaseModelRecord.id, BaseModelRecord.source).where(BaseModelRecord.name == name)
    found = session.execute(held.with_for_update()).one_or_none()
    if found is None:
        raise bases.missing(session, name)
    return found


def _taken(session: Session, repo_id: str) -> ConflictError:
    query = select(BaseModelRecord.name).join(BaseRepoId, BaseRepoId.base_id == BaseModelRecord.id)
    holder = session.scalar(query.where(BaseRepoId.repo_id == repo_id)) or "another base model"
    return ConflictError(f"{repo_id} is another repo id of {holder} already: an id is one base model's.")


def _answer(session: Session, name: str, row: Row[int, str | None]) -> AlsoKnownAs:
    return AlsoKnownAs(base=name, source=row.source, repo_ids=repo_rows.given_to(session, row.id))
