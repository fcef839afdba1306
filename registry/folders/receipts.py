"""The receipt: what was computed for a fetched folder, and the digests of what came out.

It lies beside the artifact's files and is not one of them. A folder fetched as ``merged`` and then trained on tells a
later publish, by its receipt, which revision is the parent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from registry.errors import IntegrityError, NotFoundError, RegistryError
from registry.folders.scan import RECEIPT
from registry.schemas import ArtifactKind, Dtype, Options, OutputFile, Schema, Truncation

RECEIPT_FORMAT: Final = 1
MAX_RECEIPT: Final = 64 << 20


class ReceiptPlanLink(Schema):
    """A link of the plan."""

    revision: str
    coefficient: float


class ReceiptPlan(Schema):
    """The plan, as `registry.tensors.artifacts.plan.Plan` writes it."""

    format: int
    kind: ArtifactKind
    base: str
    base_files: str
    table: str
    links: tuple[ReceiptPlanLink, ...]
    since: str | None
    dtype: Dtype | None
    ranks: dict[str, int] | None
    uniform: bool
    base_repo: str | None


class ReceiptLink(Schema):
    """A link of the lineage, root first, with the scalings that went into it."""

    reference: str
    number: int
    digest: str
    scalings: tuple[float, ...]  # the distinct ones, ascending
    rank: int


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

    @property
    def options(self) -> Options:
        """What was asked for."""
        return Options(
            kind=self.kind,
            since=self.since,
            dtype=self.plan.dtype,
            rank=self.truncation.rank if self.truncation else None,
            max_error=self.truncation.max_error if self.truncation else None,
            uniform=self.plan.uniform,
        )

    @property
    def tip(self) -> str | None:
        """Digest of the revision whose path this is; None: the base model itself."""
        return self.lineage[-1].digest if self.lineage else None


def read_receipt(file: Path, error: type[RegistryError] = IntegrityError) -> Receipt:
    """Read a receipt, or the receipt in a folder.

    Raises:
        NotFoundError: there is none.
        error: it is not a receipt.
    """
    try:
        file = file / RECEIPT if file.is_dir() else file
        with file.open("rb") as stream:
            data = stream.read(MAX_RECEIPT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"There is no receipt {str(file)!r}; `registry fetch` writes one.", code="missing_file"
        ) from None
    except OSError as problem:
        raise error(f"The receipt {str(file)!r} can't be read: {problem.strerror}.") from None
    try:
        return Receipt.model_validate_json(data[:MAX_RECEIPT])
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise error(
            f"{file} is not a receipt of this registry: {where}: {first['msg']}. Fetch the folder again."
        ) from None


def write_receipt(receipt: Receipt) -> bytes:
    """The receipt as the bytes of its file."""
    return (receipt.model_dump_json(indent=2) + "\n").encode("utf-8")
