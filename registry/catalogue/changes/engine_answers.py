"""Whether engines load the composed adapters of revisions, as it is kept: answers of the rules that were used."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.statistics_tables import EngineAnswerRecord
from registry.catalogue.database.tables import Revision

_KEPT: Final = Prepared(
    lambda _: select(
        EngineAnswerRecord.engine, EngineAnswerRecord.rules, EngineAnswerRecord.reasons, EngineAnswerRecord.rank
    ).where(EngineAnswerRecord.revision_id == bindparam("id"))
)


class KeptAnswer(NamedTuple):
    """An answer by the default rank of the engine."""

    engine: str
    rules: str  # digest
    reasons: tuple[str, ...]  # codes; none where it loads
    rank: int | None


def kept(session: Session, revision_id: int) -> tuple[KeptAnswer, ...]:
    """All that is kept of a revision, by whichever rules."""
    found = reading(session).rows(_KEPT, {"id": revision_id})
    return tuple(KeptAnswer(row.engine, row.rules, tuple(row.reasons), row.rank) for row in found)


def keep(session: Session, revision_id: int, answer: KeptAnswer) -> None:
    """Keep an answer, instead of what was kept for that engine; of a deleted revision nothing is kept."""
    held = select(Revision.id).where(Revision.id == revision_id).with_for_update()
    if session.scalar(held) is None:
        return
    own = (EngineAnswerRecord.revision_id == revision_id, EngineAnswerRecord.engine == answer.engine)
    session.execute(delete(EngineAnswerRecord).where(*own))
    session.add(EngineAnswerRecord(revision_id=revision_id, **answer._asdict() | {"reasons": list(answer.reasons)}))
