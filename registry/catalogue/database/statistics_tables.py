"""The tables of what was computed about published weights: figures that never change, and can be computed again."""

from __future__ import annotations

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalogue.database.tables import Digest, Record


class BaseNormsRecord(Record):
    """The Frobenius norms of a base model's slots, as `registry.services.bases.norms` writes them.

    They are those of the slots of one target table: the row of a table that was replaced does not count.
    """

    __tablename__ = "base_norms"

    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id", ondelete="CASCADE"), primary_key=True)
    format: Mapped[int]
    table_digest: Mapped[Digest]
    document: Mapped[bytes] = mapped_column(LargeBinary)  # JSON, deflated
