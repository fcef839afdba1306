"""What is recorded of revisions after they were published: notices about weights, and answers of engine rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, or_, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, Reader, reading
from registry.catalogue.database.statistics_tables import EngineAnswerRecord, NoticeRecord
from registry.catalogue.database.tables import Adapter, Revision, RevisionFile, table_of
from registry.folders.scan import form_of
from registry.reference import Path
from registry.schemas.tags import Notice, notice

_KEPT_ANSWER: Final = Prepared(
    lambda _: select(
        EngineAnswerRecord.engine, EngineAnswerRecord.rules, EngineAnswerRecord.reasons, EngineAnswerRecord.rank
    ).where(EngineAnswerRecord.revision_id == bindparam("id"))
)


class KeptAnswer(NamedTuple):
    """An answer by the default rank of the engine."""

    engine: str
    rules: str  # digest
    reasons: tuple[str, ...]  # codes; none if it loads
    rank: int | None


def kept_answer(session: Session, revision_id: int) -> tuple[KeptAnswer, ...]:
    """All that is stored of a revision, by whichever rules."""
    found = reading(session).rows(_KEPT_ANSWER, {"id": revision_id})
    return tuple(KeptAnswer(row.engine, row.rules, tuple(row.reasons), row.rank) for row in found)


def keep_answer(session: Session, revision_id: int, answer: KeptAnswer) -> None:
    """Store an answer, replacing the one for that engine; of a deleted revision nothing is stored."""
    held = select(Revision.id).where(Revision.id == revision_id).with_for_update()
    if session.scalar(held) is None:
        return
    own = (EngineAnswerRecord.revision_id == revision_id, EngineAnswerRecord.engine == answer.engine)
    session.execute(delete(EngineAnswerRecord).where(*own))
    session.add(EngineAnswerRecord(revision_id=revision_id, **answer._asdict() | {"reasons": list(answer.reasons)}))


_NOTICES: Final = table_of(NoticeRecord)
_ELSEWHERE: Final = frozenset({"code", "text", "reference"})
"""Fields of a notice that its row has no document for."""


@dataclass(frozen=True)
class Noticed:
    """A notice, and the key of the other revision that it is about."""

    notice: Notice
    other_id: int | None = None


def keep_notices(session: Session, revision_id: int, noticed: Iterable[Noticed]) -> None:
    """Keep notices about a revision."""
    rows = [
        {
            "revision_id": revision_id,
            "other_id": one.other_id,
            "code": one.notice.code,
            "document": one.notice.model_dump(mode="json", exclude=set(_ELSEWHERE), exclude_defaults=True),
        }
        for one in noticed
    ]
    if rows:
        session.execute(insert(_NOTICES), rows)


def notices(session: Session, revision_id: int) -> tuple[Notice, ...]:
    """Notices about a revision, in the order in which they were stored.

    One about another revision is included only while the session sees that one.
    """
    return tuple(
        notice(
            row.code,
            reference=None if row.path is None else f"{row.path}@{row.number}",
            modules=row.document.get("modules"),
            of=row.document.get("of"),
            names=tuple(row.document.get("names", ())),
            value=row.document.get("value"),
        )
        for row in reading(session).rows(_KEPT, {"id": revision_id})
    )


def same_files(reader: Reader, path: Path, digest: str, files: Mapping[str, str]) -> Noticed | None:
    """The notice that another revision has the same configuration and weights, if one is seen: the oldest.

    Args:
        reader: whose rights say what is seen.
        path: of the revision that it is not.
        digest: of the same.
        files: digests of its files by name.
    """
    form = form_of(files)
    names = {"config": form.config, "weights": form.weights}
    digests = {f"{what}_digest": files[name] for what, name in names.items()}
    row = reader.first(_SAME, {"own": str(path), "digest": digest, **names, **digests})
    return None if row is None else Noticed(notice("duplicate", reference=f"{row.path}@{row.number}"), row.id)


def _where_both_are_seen() -> Prepared:
    query = (
        select(NoticeRecord.code, NoticeRecord.document, Adapter.path, Revision.number)
        .outerjoin(Revision, Revision.id == NoticeRecord.other_id)
        .outerjoin(Adapter, Adapter.id == Revision.adapter_id)
        .where(NoticeRecord.revision_id == bindparam("id"))
        .where(or_(NoticeRecord.other_id.is_(None), Adapter.id.is_not(None)))
        .order_by(NoticeRecord.id)
    )
    return Prepared(lambda _: query)


def _same() -> Prepared:
    config, weights = aliased(RevisionFile), aliased(RevisionFile)
    query = (
        select(Revision.id, Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(weights, weights.revision_id == Revision.id)
        .join(config, config.revision_id == Revision.id)
        .where(weights.path == bindparam("weights"), weights.digest == bindparam("weights_digest"))
        .where(config.path == bindparam("config"), config.digest == bindparam("config_digest"))
        .where(or_(Revision.digest != bindparam("digest"), Adapter.path != bindparam("own")))
        .where(Adapter.renamed_to.is_(None))
        .order_by(Revision.id)
        .limit(1)
    )
    return Prepared(lambda _: query)


_KEPT: Final = _where_both_are_seen()
_SAME: Final = _same()
