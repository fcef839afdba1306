"""The receipt that lies beside fetched weights: what was computed, and the digests of what came out."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from registry.digest import document_digest
from registry.schemas import ArtifactKind, Options, OutputFile, Schema, Truncation, WrittenDtype
from registry.schemas.artifacts import KINDS, Measured, TrainedQuantised
from registry.schemas.form import Layout
from registry.schemas.weights import text_of

RECEIPT_FORMAT: Final = 1
README_FORMAT: Final = 4
"""The first version of the artifact format whose composed and merged artifacts have a README.md that is made."""


class ReceiptPlanLink(Schema):
    """A link of the plan."""

    revision: str
    coefficient: float = Field(allow_inf_nan=False)  # the weight of the link


class ReceiptPlan(Schema):
    """The plan, as `registry.tensors.artifacts.plan.Plan` writes it."""

    format: int
    kind: ArtifactKind
    base: str
    base_files: str
    table: str
    links: tuple[ReceiptPlanLink, ...]
    since: str | None
    dtype: WrittenDtype | None
    ranks: dict[str, int] | None
    uniform: bool
    base_repo: str | None
    onto: TrainedQuantised = None  # how the base was quantised that the path was merged onto; None: as it is stored
    layout: Annotated[Layout | None, Field(exclude_if=lambda value: value is None)] = None
    dense_as_diff: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    plain: Annotated[bool, Field(exclude_if=lambda value: not value)] = False


class ReceiptLink(Schema):
    """A link of the lineage, root first, with the scalings that went into it."""

    reference: str
    number: int
    digest: str
    scalings: tuple[float, ...]  # the distinct ones, ascending
    rank: int
    weight: Annotated[float, Field(allow_inf_nan=False, exclude_if=lambda value: value == 1)] = 1.0


class ReceiptVersions(Schema):
    """What wrote the folder."""

    registry: str
    artifact_format: int
    torch: str
    python: str


class Receipt(Schema):
    """The content of ``registry-receipt.json``."""

    format: Literal[1] = RECEIPT_FORMAT
    reference: str
    kind: ArtifactKind
    base: str  # name
    since: str | None  # reference
    plan: ReceiptPlan
    plan_digest: str
    rendering: str
    numerics: str | None
    lineage: tuple[ReceiptLink, ...]
    registry: str
    versions: ReceiptVersions
    notices: tuple[str, ...]
    truncation: Truncation | None
    files: tuple[OutputFile, ...]
    fidelity: Measured = None
    exported: Annotated[dict[str, str] | None, Field(exclude_if=lambda value: value is None)] = None
    """Of an export: the sha256 digest of each file. Without names, references are digests and names are empty."""

    @property
    def weights(self) -> dict[str, float]:
        """Weights other than 1 by the digest of their link: what was computed."""
        return {link.revision: link.coefficient for link in self.plan.links if link.coefficient != 1}

    @property
    def options(self) -> Options:
        """What was requested."""
        return Options(
            kind=self.kind,
            since=self.since,
            dtype=self.plan.dtype,
            rank=self.truncation.rank if self.truncation else None,
            max_error=self.truncation.max_error if self.truncation else None,
            uniform=self.plan.uniform,
            onto=None if self.plan.onto is None else "trained",
            layout=self.plan.layout,
            dense_as_diff=self.plan.dense_as_diff,
            plain=self.plan.plain,
            min_fidelity=0 if self.plan.dtype == "fp8" else None,  # it was enough when this was made
            weights=text_of(self.weights),
        )

    @property
    def made_for(self) -> str | None:
        """Digest of the revision that an adapter with this receipt goes on; None: the base model.

        That is its parent if it is published again.
        """
        if not KINDS[self.kind].tip_only:
            return self.plan.since
        return self.lineage[-2].digest if len(self.lineage) > 1 else None

    @property
    def tip(self) -> str | None:
        """Digest of the revision whose path this is; None: the base model itself."""
        return self.lineage[-1].digest if self.lineage else None


def rendering_digest(plan_digest: str, artifact_format: int, numerics: str | None, base_model: str | None) -> str:
    """The digest that names an artifact's bytes.

    Args:
        plan_digest: what is meant.
        artifact_format: the version of what writes headers, configurations and README.md.
        numerics: the fingerprint of the arithmetic; None: bytes are only copied.
        base_model: what README.md calls the model; None: no README.md is made.
    """
    document = {"plan": plan_digest, "artifact_format": artifact_format, "numerics": numerics}
    return document_digest(document | ({} if base_model is None else {"base_model": base_model}))
