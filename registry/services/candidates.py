"""An adapter that is to be published, and every check of it that needs no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from registry.catalogue import protection
from registry.catalogue.texts import check_annotations, check_metrics, check_text
from registry.errors import InvalidAdapterError
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.reference import Path as TreePath
from registry.reference import Reference, check_tag
from registry.schemas import LeftOut
from registry.services.deployment import Deployment
from registry.services.hub_parent import TrainedOn
from registry.services.lineage import LoadedPath, target_table
from registry.services.parents import Parent, find_parent, reading_above
from registry.services.paths import path_in
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig, parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.files.header import Header, read_header
from registry.tensors.files.source import ByteSource
from registry.wire import GivenReceipt, Origin


@dataclass(frozen=True)
class Labels:
    """What is said about a revision: not part of its digest, and free to change later."""

    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, message: str, metrics: Mapping[str, float], tags: Iterable[str], annotations: Mapping[str, str]
    ) -> Labels:
        """Labels that can be kept; raises `UsageError` naming what can't."""
        return cls(
            check_text("The message", message),
            check_metrics(metrics),
            tuple(check_tag(tag) for tag in tags),
            check_annotations(annotations),
        )


@dataclass(frozen=True)
class Draft:
    """What is to be published, wherever its files are; of the weights only the header is read here."""

    path: TreePath
    parent: str | None
    receipt: GivenReceipt | None
    labels: Labels
    config: bytes
    weights: ByteSource
    left_out: tuple[LeftOut, ...] = ()
    origin: Origin | None = None
    source: str | None = None  # the repository of a Hub that it was taken from


@dataclass(frozen=True)
class Candidate:
    """A draft that passed."""

    draft: Draft
    config: LoraAdapterConfig
    header: Header
    checkpoint: Checkpoint
    parent: Parent
    lineage: LoadedPath


def check_draft(deployment: Deployment, draft: Draft) -> Candidate:
    """Check a draft against its parent and its base model.

    Raises:
        NotAllowedError: the token may not publish at this path.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.parents`.
        RetractedError: the parent, or something that it was trained on, was retracted.
        InvalidAdapterError: the adapter is not one that can be composed exactly; the code says which rule.
    """
    require_publishing(deployment, draft.path)
    with deployment.read() as session:
        for tag in draft.labels.tags:
            protection.check_movable(session, draft.path, tag, deployment.principal)
    config = parse_config(draft.config)
    # A copy is pinned as it was where it comes from: numbers and tags in its configuration are that registry's.
    told = TrainedOn.of(config.base_model_name_or_path, config.revision, taken=draft.source is not None)
    trained_on = told if draft.origin is None else None
    parent = find_parent(deployment, draft.path, parent=draft.parent, receipt=draft.receipt, trained_on=trained_on)
    reference = Reference.parse(parent.reference)
    with reading_above(deployment, reference.path) as session:
        lineage = path_in(session, reference)
    header = read_header(draft.weights, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    checkpoint = read_checkpoint(config, header.entries, target_table(deployment, lineage.base))
    return Candidate(draft, config, header, checkpoint, parent, lineage)


def require_publishing(deployment: Deployment, path: TreePath) -> None:
    """Refuse what the token may not do; raises `NotAllowedError`."""
    deployment.rights.require_on("writer", path, "publish")
