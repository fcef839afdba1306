"""The tables of what was computed about published weights: figures that never change, and can be computed again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalogue.database.tables import ORDERED, Digest, Key, Record


class StatisticsRecord(Record):
    """Statistics of the delta of a revision (`link`), or of its whole path: a document, as one version wrote it."""

    __tablename__ = "statistics"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    delta: Mapped[str] = mapped_column(ORDERED, primary_key=True)  # link, path, dense
    format: Mapped[int]
    relative: Mapped[bool]  # whether the base's norms were known
    document: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, deflated


class StatisticValueRecord(Record):
    """A figure of the delta of a revision, all modules together: what searches ask for."""

    __tablename__ = "statistic_values"
    __table_args__ = (Index(None, "name", "value", "revision_id"),)

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class EngineAnswerRecord(Record):
    """Whether an engine loads the composed adapter of a revision, as its rules said."""

    __tablename__ = "engine_answers"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    engine: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    rules: Mapped[Digest]  # of the rules that it was judged by: other rules may say otherwise
    reasons: Mapped[list[str]]  # codes of why not; none if it loads
    rank: Mapped[int | None]  # the largest of a module; None: no single adapter equals the path


class MaterialisedFidelityRecord(Record):
    """What was measured while a materialisation was made: figures of the whole model, and a document of each tensor."""

    __tablename__ = "materialised_fidelity"

    materialisation_id: Mapped[str] = mapped_column(
        ORDERED, ForeignKey("materialisations.id", ondelete="CASCADE"), primary_key=True
    )
    rows: Mapped[str]  # sample, full
    relative_error: Mapped[float | None]
    unchanged_share: Mapped[float | None]
    surviving_share: Mapped[float | None]
    document: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, deflated


class BaseNormsRecord(Record):
    """The Frobenius norms of a base model's slots, as `registry.services.bases.norms` writes them.

    They are those of the slots of one target table: the row of a table that was replaced does not count.
    """

    __tablename__ = "base_norms"

    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id", ondelete="CASCADE"), primary_key=True)
    format: Mapped[int]
    table_digest: Mapped[Digest]
    document: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, deflated


class SketchRecord(Record):
    """The sketch of the delta of a revision: `registry.tensors.analysis.inner_products`.

    The row also says that what takes computing was noticed, and whether the base's norms were known then.
    """

    __tablename__ = "sketches"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    format: Mapped[int]
    noticed: Mapped[bool]
    relative: Mapped[bool]
    direction: Mapped[bytes] = mapped_column(LargeBinary)


class FingerprintRecord(Record):
    """What the path of a revision makes of some elements of its base: `registry.tensors.comparison.fingerprint`.

    Made with one target table: that of a table that was replaced does not count.
    """

    __tablename__ = "fingerprints"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    table_digest: Mapped[Digest]
    document: Mapped[bytes] = mapped_column(LargeBinary)


class NoticeRecord(Record):
    """What the weights of a revision show. Whoever does not see the other revision that it is about does not see it."""

    __tablename__ = "notices"

    id: Mapped[Key]
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), index=True)
    other_id: Mapped[int | None] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), index=True)
    code: Mapped[str]
    document: Mapped[dict[str, Any]]  # the fields of `registry.schemas.tags.Notice`
