"""All checks of an adapter that is to be published which need no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import ConflictError, InvalidAdapterError
from registry.files.header import Header, read_header
from registry.files.strict_json import shown
from registry.folders.scan import ADAPTER_WEIGHTS, EXACT
from registry.images.about import about_lora
from registry.reference import Path as TreePath
from registry.schemas.artifacts import Extraction
from registry.schemas.parents import level_of
from registry.services.deployment import Deployment
from registry.services.exact.folder import as_checkpoint, exact_config, fitting_index
from registry.services.publishing.draft import Draft
from registry.services.publishing.lookup import Claims, Lookup, Nesting, look_up, named
from registry.services.publishing.parent_weights import not_found
from registry.services.publishing.parents import Parent, require_accepted
from registry.tensors.checkpoint.adapter import Checkpoint, LoraAdapterConfig
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint, refuse_untargeted
from registry.tensors.exact.file_format import ExactIndex
from registry.tensors.lineage.inputs import path_table
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.table.targets import TargetTable

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
    exact: ExactIndex | None = None  # of a full fine-tune, which has neither a safetensors header nor pairs
    on_quantised: bool = False  # the base model is quantised: what adapters on it are trained on

    @property
    def parameters(self) -> int:
        """Elements of everything that was trained."""
        return self.checkpoint.parameters if self.exact is None else self.exact.parameters

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
        claims: its files, if their digests are known already.
        nesting: only if nothing is published yet, so that the revision of the folder above may be planned only.

    Raises:
        NotAllowedError: the principal may not move a protected tag.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.publishing.parents`.
        ConflictError: ``renamed``, the path is an old name or below one.
        RetractedError: the parent or one of its ancestors was retracted.
        InvalidAdapterError: the adapter can't be composed exactly; the code names the rule that it breaks.
    """
    exact = draft.form is EXACT
    config = exact_config(draft.config) if exact else parse_config(draft.config)
    with deployment.read() as session:
        draft = replace(draft, derived_from=named(session, draft.derived_from))
        found = look_up(session, deployment.principal, draft, config, claims, nesting)
    if exact:
        index = fitting_index(deployment, found.lineage, draft.weights, config)
        require_known(deployment, draft, found.parent)
        return Candidate(draft, config, Header({}, {}, index.size), as_checkpoint(config), found.parent, found, index)
    header = read_header(draft.weights, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    table = path_table(deployment, found.lineage)
    checkpoint = _read(config, header, table, found.lineage)
    if not checkpoint.copies:  # copies of whole weights may prove it later
        require_known(deployment, draft, found.parent)
    if draft.origin is None:  # a copy is accepted as in the source registry
        refuse_untargeted(config, checkpoint.untargeted)
    if draft.extracted is not None:
        _check_extracted(draft.extracted, checkpoint, found.parent)
        checkpoint = replace(checkpoint, notices=(*checkpoint.notices, *_guessed_kinds(checkpoint, table)))
    on_quantised = table.quantised is not None
    return Candidate(draft, config, header, checkpoint, found.parent, found, on_quantised=on_quantised)


def _read(config: LoraAdapterConfig, header: Header, table: TargetTable, lineage: LoadedPath) -> Checkpoint:
    """The checkpoint; if it does not fit the base model, the error names the one that it was trained on."""
    try:
        return read_checkpoint(config, header.entries, table)
    except InvalidAdapterError as wrong:
        said = _base_said(config, header)
        if said is None or wrong.code not in _OF_ANOTHER_BASE:
            raise
        raise InvalidAdapterError(
            f"{wrong} {said}; this base model is {lineage.base.name}.", code=wrong.code
        ) from wrong


def _base_said(config: LoraAdapterConfig, header: Header) -> str | None:
    """What an adapter says that it was trained on, as a clause; None: nothing."""
    if config.base_model_name_or_path:
        return f"The adapter's configuration says that it was trained on {shown(config.base_model_name_or_path)}"
    named = about_lora(header.metadata).base_named
    return f"The file's metadata says that it was trained on {shown(named)}" if named else None


def _check_extracted(extracted: Extraction, checkpoint: Checkpoint, parent: Parent) -> None:
    """Check that a report is about this adapter on this parent.

    Raises:
        ConflictError: ``parent_mismatch``, the full model was compared with another parent.
        InvalidAdapterError: ``bad_config``, the adapter has other pairs.
    """
    if extracted.parent != parent.digest:
        raise ConflictError(
            f"The full model was compared with {extracted.parent}, but its parent is {parent.reference} "
            f"({parent.digest}): another revision was published meanwhile. Give the right one with --parent REF.",
            code="parent_mismatch",
        )
    ranks = {pair.module: pair.rank for pair in checkpoint.pairs.values()}
    for one in extracted.modules:
        if ranks.get(one.module) != one.rank:
            raise InvalidAdapterError(
                f"The report on the full model says that {shown(one.module)} has rank {one.rank}, but the adapter has "
                f"{ranks.get(one.module, 'no pair')} there.",
                code="bad_config",
            )


def _guessed_kinds(checkpoint: Checkpoint, table: TargetTable) -> Iterator[str]:
    """What a full model does not show, as an adapter that was trained does by the names of its tensors."""
    guessed = [
        module
        for module, pair in checkpoint.pairs.items()
        if table.may_be_embedding(pair.target)
        if "bias" not in table.parameters_of(pair.target.module)  # an embedding has none
    ]
    if guessed:
        more = f" and {len(guessed) - 1} more modules" if len(guessed) > 1 else ""
        yield (
            f"{shown(guessed[0])}{more}: the full model does not show whether it is an embedding, and its pair is that "
            "of a linear module, which PEFT leaves out where it finds an nn.Embedding. Declare embeddings in the base "
            "folder's registry.json."
        )


def require_known(deployment: Deployment, draft: Draft, parent: Parent) -> None:
    """Refuse a parent that is not known as it has to be.

    Raises:
        ConflictError: ``parent_unproven``, the registry takes no others.
        UsageError: ``parent_ambiguous``, it was to be found, and is only assumed.
    """
    if draft.said.find and level_of(parent.known_by) == "assumed":
        raise not_found(parent.known_by, parent.reference, parent.notices)
    require_accepted(parent, deployment.parents)


def require_publishing(deployment: Deployment, path: TreePath) -> None:
    """Check the right to publish at a path; raises `NotAllowedError`."""
    deployment.rights.require_on("writer", path, "publish")
