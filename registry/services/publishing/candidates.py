"""All checks of an adapter that is to be published which need no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import Header, read_header
from registry.files.strict_json import shown
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.reference import Path as TreePath
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath, target_table
from registry.services.publishing.draft import Draft
from registry.services.publishing.lookup import Claims, Lookup, Nesting, look_up
from registry.services.publishing.parents import Parent, require_proven
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig, parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.checkpoint.untargeted import refuse_untargeted

_OF_ANOTHER_BASE: Final = ("shape_mismatch", "unknown_target")


@dataclass(frozen=True)
class Candidate:
    """A draft that passed the checks."""

    draft: Draft
    config: LoraAdapterConfig
    header: Header
    checkpoint: Checkpoint
    parent: Parent
    found: Lookup

    @property
    def lineage(self) -> LoadedPath:
        """The parent's."""
        return self.found.lineage


def check_draft(
    deployment: Deployment, draft: Draft, claims: Claims | None = None, *, nesting: Nesting | None = None
) -> Candidate:
    """Check a draft against its parent and its base model; the right to publish at its path was checked before.

    The catalogue is read in one transaction, before anything is read from the store.

    Args:
        deployment: where it is to be published.
        draft: what is to be published.
        claims: its files, where their digests are known already.
        nesting: only where nothing is published yet, so that the revision of the folder above may be planned only.

    Raises:
        NotAllowedError: the principal may not move a protected tag.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.publishing.parents`.
        ConflictError: ``renamed``, the path is an old name or below one.
        RetractedError: the parent or one of its ancestors was retracted.
        InvalidAdapterError: the adapter can't be composed exactly; the code says which rule it breaks.
    """
    config = parse_config(draft.config)
    with deployment.read() as session:
        found = look_up(session, deployment.principal, draft, config, claims, nesting)
    header = read_header(draft.weights, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    checkpoint = _read(config, header, deployment, found.lineage)
    if deployment.proven_parents and not checkpoint.copies:  # copies of whole weights may prove it later
        require_proven(found.parent)
    if draft.origin is None:  # a copy is accepted as in the source registry
        refuse_untargeted(config, checkpoint.untargeted)
    return Candidate(draft, config, header, checkpoint, found.parent, found)


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
