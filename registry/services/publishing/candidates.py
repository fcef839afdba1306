"""An adapter that is to be published, and all checks of it that need no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from registry.catalogue.changes import protection
from registry.catalogue.tree import old_names
from registry.errors import InvalidAdapterError
from registry.files.header import Header, read_header
from registry.files.source import ByteSource
from registry.files.strict_json import shown
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.operations.publication import Labels
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import DerivedFrom, FolderCompared, LeftOut
from registry.schemas.transfer import GivenReceipt, Origin
from registry.services.artifacts.load import path_in
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath, target_table
from registry.services.publishing.derivation import derivation_notices
from registry.services.publishing.hub_parent import TrainedOn
from registry.services.publishing.nested_parent import planned_parent
from registry.services.publishing.parents import Parent, Told, find_parent, reading_above, require_proven
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig, parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.checkpoint.untargeted import refuse_untargeted

_OF_ANOTHER_BASE: Final = ("shape_mismatch", "unknown_target")


@dataclass(frozen=True)
class Said:
    """What the publisher, and the folder that the adapter was trained on, say about the parent."""

    parent: str | None = None
    receipt: GivenReceipt | None = None
    skip_check: bool = False
    nested: bool = False
    compared: FolderCompared | None = None


@dataclass(frozen=True)
class Draft:
    """An adapter to publish, wherever its files are; only the header of its weights is read here."""

    path: TreePath
    said: Said
    labels: Labels
    config: bytes
    weights: ByteSource
    left_out: tuple[LeftOut, ...] = ()
    origin: Origin | None = None
    source: str | None = None  # the Hub repository that it was taken from
    derived_from: DerivedFrom | None = None  # by the receipt in its folder
    quantised: str | None = None  # the evidence in its folder that it was trained on quantised weights


@dataclass(frozen=True)
class Candidate:
    """A draft that passed the checks."""

    draft: Draft
    config: LoraAdapterConfig
    header: Header
    checkpoint: Checkpoint
    parent: Parent
    lineage: LoadedPath
    notices: tuple[str, ...] = ()  # in addition to those of the checkpoint


def check_draft(
    deployment: Deployment, draft: Draft, *, planning: bool = False, planned: LoadedPath | None = None
) -> Candidate:
    """Check a draft against its parent and its base model; the right to publish at its path was checked before.

    Args:
        deployment: where it is to be published.
        draft: what is to be published.
        planning: nothing is published yet, so the revision of the folder above may be planned only.
        planned: the lineage of that revision, if known; else the candidate's lineage is the base model alone.

    Raises:
        NotAllowedError: the principal may not move a protected tag.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.publishing.parents`.
        ConflictError: ``renamed``, the path is an old name or below one.
        RetractedError: the parent or one of its ancestors was retracted.
        InvalidAdapterError: the adapter can't be composed exactly; the code says which rule it breaks.
    """
    with deployment.read() as session:
        old_names.check_current(session, draft.path)
        for tag in draft.labels.tags:
            protection.check_movable(session, draft.path, tag, deployment.principal)
    config = parse_config(draft.config)
    # A copy keeps its parent: numbers and tags in its configuration are those of the source registry.
    view = TrainedOn.of(config.base_model_name_or_path, config.revision, taken=draft.source is not None)
    said, origin = draft.said, draft.origin
    told = Told(
        parent=said.parent,
        skip_check=said.skip_check,
        nested=said.nested,
        receipt=said.receipt,
        trained_on=view if origin is None else None,
        compared=said.compared,
        name=config.base_model_name_or_path,
        copied_word=None if origin is None else origin.parent_known_by,
    )
    parent = planned_parent(deployment, draft.path, told) if planning and said.nested else None
    if parent is None:
        planned = None
        parent = find_parent(deployment, draft.path, told)
    reference = Reference.parse(parent.base.name if parent.planned else parent.reference)
    with reading_above(deployment, reference.path) as session:
        lineage = planned or path_in(session, reference)
    header = read_header(draft.weights, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    checkpoint = _read(config, header, deployment, lineage)
    if deployment.proven_parents and not checkpoint.copies:  # copies of whole weights may prove it later
        require_proven(parent)
    if draft.origin is None:  # a copy is accepted as in the source registry
        refuse_untargeted(config, checkpoint.untargeted)
    notices = tuple(derivation_notices(deployment, draft.path, draft.derived_from, parent))
    return Candidate(draft, config, header, checkpoint, parent, lineage, notices)


def _read(config: LoraAdapterConfig, header: Header, deployment: Deployment, lineage: LoadedPath) -> Checkpoint:
    """The checkpoint; where it does not fit the base model, the error names the one that it was trained on."""
    try:
        return read_checkpoint(config, header.entries, target_table(deployment, lineage.base))
    except InvalidAdapterError as wrong:
        name = config.base_model_name_or_path
        if not name or wrong.code not in _OF_ANOTHER_BASE:
            raise
        raise InvalidAdapterError(
            f"{wrong} The adapter's configuration says that it was trained on {shown(name)}; this base model is "
            f"{lineage.base.name}.",
            code=wrong.code,
        ) from wrong


def require_publishing(deployment: Deployment, path: TreePath) -> None:
    """Check the right to publish at a path; raises `NotAllowedError`."""
    deployment.rights.require_on("writer", path, "publish")
