"""Repo ids of base models that are no paths: the repo that one was taken from, and ids that an admin gave it.

A path counts first: an id whose first part is the name of a base model, seen or not, means nothing else. Then what an
admin gave, then sources; of several base models with the same source, the one that was added first.
"""

from __future__ import annotations

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.tables import BaseModelRecord, BaseRepoId
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.tree.old_names import base_is_listed
from registry.reference import on_the_hub

_EVERYTHING = {**IGNORE_RIGHTS, **INCLUDE_DELETED}
_HOLDER = aliased(BaseModelRecord)


def base_answering(session: Session, repo_id: str) -> str | None:
    """The base model that answers under a repo id which is no path's; None: there is none for this session."""
    if "/" in repo_id and begins_with_a_base(session, repo_id):  # without a slash it is no path
        return None
    if _is_given(session, repo_id):
        return _by_given(session, repo_id)
    begins = BaseModelRecord.source.startswith(_as_source(repo_id), autoescape=True)
    query = select(BaseModelRecord.name, BaseModelRecord.source).where(begins, base_is_listed(session))
    found = session.execute(query.order_by(BaseModelRecord.id)).all()
    # SQLite compares without regard to capital letters.
    return next((name for name, source in found if (source or "").startswith(_as_source(repo_id))), None)


def is_private(session: Session, repo_id: str) -> bool:
    """Whether only this registry is asked about a repo id, whoever asks: others are not to learn its names.

    True of all below the name of a base model, of what an admin gave, and of sources at other Hubs; in any letters,
    since Hubs may take capital letters for small ones.
    """
    if begins_with_a_base(session, repo_id) or _is_given(session, repo_id):
        return True
    begins = BaseModelRecord.source.istartswith(_as_source(repo_id), autoescape=True)
    sources = session.scalars(select(BaseModelRecord.source).where(begins), execution_options=_EVERYTHING)
    return any(on_the_hub(source) is None for source in sources)


def begins_with_a_base(session: Session, repo_id: str, *, seen: bool = False) -> bool:
    """Whether the first part of a repo id is the name of a base model, deleted ones included; ``seen`` by this session,
    or by nobody.
    """
    first = repo_id.partition("/")[0].lower()
    query = select(BaseModelRecord.id).where(BaseModelRecord.name == first).limit(1)
    return session.scalar(query, execution_options=INCLUDE_DELETED if seen else _EVERYTHING) is not None


def given_to(session: Session, base_id: int) -> tuple[str, ...]:
    """The repo ids that an admin gave a base model."""
    query = select(BaseRepoId.repo_id).where(BaseRepoId.base_id == base_id)
    return tuple(session.scalars(query.order_by(BaseRepoId.repo_id)))


def _is_given(session: Session, repo_id: str) -> bool:
    query = select(BaseRepoId.repo_id).where(func.lower(BaseRepoId.repo_id) == repo_id.lower()).limit(1)
    return session.scalar(query) is not None


def _by_given(session: Session, repo_id: str) -> str | None:
    """By an id that an admin gave: the newest name of the base model that is seen, or else an old one."""
    named = or_(BaseModelRecord.id == _HOLDER.id, BaseModelRecord.renamed_to == _HOLDER.name)
    query = (
        select(BaseModelRecord.name)
        .join(_HOLDER, named)
        .join(BaseRepoId, BaseRepoId.base_id == _HOLDER.id)
        .where(BaseRepoId.repo_id == repo_id)
        .order_by(BaseModelRecord.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def _as_source(repo_id: str) -> str:
    return f"hf:{repo_id}@"
