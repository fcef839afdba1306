"""Links of a path, read as checkpoints: what they do to the base model, with the open files of their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.images.normal_form import ColumnMagnitude
from registry.schemas.weights import as_read
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.lineage.inputs import Inputs, exact_link, open_source, path_table
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, read_blob
from registry.tensors.path.programs import BoundLink, PathPrograms
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.ties import retable_needed, unsaid

NOT_WEIGHABLE: Final = "not_weighable"


def bound_links(inputs: Inputs, links: Iterable[Link]) -> list[BoundLink]:
    """Links of a path, read as checkpoints.

    Raises:
        InvalidAdapterError: ``not_composable``, one is a full fine-tune; ``not_weighable``, what one replaces has no
            weight; or a link is invalid by the rules of this version.
    """
    found = []
    for link in links:
        if link.is_exact:
            raise exact_link(link)
        try:
            found.append(bind_link(inputs.blobs, link, inputs.path, inputs.opened))
        except InvalidAdapterError as problem:
            if problem.code == NOT_WEIGHABLE:
                raise
            # It was valid when it was published: a rule has become stricter since, or bytes have changed.
            raise InvalidAdapterError(f"{link.reference} can't be used: {problem}", code=problem.code) from problem
    return found


def bind_link(blobs: Blobs, link: Link, path: LoadedPath, open_blobs: ExitStack) -> BoundLink:
    """The checkpoint of a published revision with the open file of its tensors.

    Raises:
        InvalidAdapterError: ``not_composable``, it is a full fine-tune; and what `check_weighable` raises.
    """
    if link.is_exact:
        raise exact_link(link)
    config = parse_config(read_blob(blobs, link.file(ADAPTER_CONFIG)))
    source = open_source(blobs, link.file(ADAPTER_WEIGHTS), open_blobs)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    checkpoint = read_checkpoint(config, header.entries, path_table(blobs, path))
    if link.weight != 1:
        check_weighable(link, checkpoint)
    return BoundLink(checkpoint, source, link.weight)


def check_weighable(link: Link, checkpoint: Checkpoint) -> None:
    """Check that everything a link does may be multiplied by its weight, as PEFT's ``set_scale`` does it.

    That multiplies the scaling of pairs, with their biases, and a DoRA rescales what comes out; of an IA3 it is the
    strength, ``1 + w l``. What an adapter replaces has no scale, and a DoRA of weight 0 still rescales.

    Raises:
        InvalidAdapterError: ``not_weighable``.
    """
    replaced = next(iter((*checkpoint.values, *checkpoint.tokens)), None)
    if replaced is not None:
        raise InvalidAdapterError(
            f"{link.reference} can't have the weight {as_read(link.weight)}: it replaces {replaced!r} instead of "
            "adding to it, and no weight scales what is replaced. Leave its weight out, or fetch the path above it.",
            code=NOT_WEIGHABLE,
        )
    pairs = checkpoint.pairs.items()
    by_column = next((name for name, pair in pairs if isinstance(pair.magnitude, ColumnMagnitude)), None)
    if by_column is not None:
        raise InvalidAdapterError(
            f"{link.reference} can't have the weight {as_read(link.weight)}: it rescales the columns of {by_column!r} "
            "by DoRA, and tools disagree about what a weight does to that. Leave its weight out.",
            code=NOT_WEIGHABLE,
        )
    rescaled = next((name for name, pair in checkpoint.pairs.items() if pair.magnitude is not None), None)
    if rescaled is not None and link.weight == 0:
        raise InvalidAdapterError(
            f"{link.reference} can't have the weight 0: it rescales {rescaled!r} by DoRA, which would go on with "
            "nothing added. Fetch the path above it.",
            code=NOT_WEIGHABLE,
        )


def weight_notices(links: Iterable[tuple[Link, BoundLink]]) -> tuple[str, ...]:
    """Which links have weights, and where tools disagree about what a weight means."""
    found = [(link, bound) for link, bound in links if link.weight != 1]
    if not found:
        return ()
    listed = ", ".join(f"{link.reference} has {as_read(link.weight)}" for link, _ in found)
    rescaling = [
        link.reference
        for link, bound in found
        if any(pair.magnitude is not None for pair in bound.checkpoint.pairs.values())
    ]
    told = [f"What links add was multiplied by weights: {listed}."]
    if rescaling:
        told.append(
            f"The weight of {' and '.join(rescaling)} scales what DoRA adds before it rescales, as PEFT's set_scale "
            "and diffusers do; ComfyUI scales the whole change instead."
        )
    return tuple(told)


def check_ties_known(programs: PathPrograms, table: TargetTable, path: LoadedPath) -> None:
    """If this path unties head and embedding, the table has to know all other ties; raises ``retable_needed``."""
    if programs.untied and (tied := unsaid(table)) is not None:
        raise retable_needed(
            f"{' and '.join(map(repr, programs.untied))} are tied, and not whether {tied!r} is too", path.base.name
        )
