"""Checking an adapter's copies of whole weights against its parent.

PEFT saves ``M.base_layer.weight`` for an adapted embedding (``save_embedding_layers="auto"``). It is the weight that
the adapter was trained on, so it must be the composed parent's. If the parent was merged link by link in the base's
dtype, each link rounded once, which is tolerated; a larger difference shows another parent. Integer tensors, which
training never changes, must equal the base's.

The links above a new adapter, as checkpoints: read once by a process, since publishers share their parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import torch

from registry.digest import BlobRef
from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.source import ByteSource, read_range
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.services.bases.not_finite import check_changed_rows
from registry.tensors.arithmetic.dtypes import FLOATS, WHOLE_NUMBERS
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.coverage import check_alphas, check_twins
from registry.tensors.checkpoint.factors import read_rows
from registry.tensors.comparison.roundings import coarser, links_of, rounded_block
from registry.tensors.lineage.bound import bind_link
from registry.tensors.lineage.inputs import base_weights, path_table
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, read_document
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, Program, origin_of, path_programs
from registry.tensors.table.slots import slot_of_target
from registry.tensors.table.targets import TargetTable


def parent_links(blobs: Blobs, path: LoadedPath, opened: ExitStack) -> list[BoundLink]:
    """The live links of a path; ``opened`` closes what is opened here. Their weights are opened when they are read.

    Raises:
        InvalidAdapterError: a link is invalid by the rules of this version.
    """
    return [_bound(blobs, link, path, opened) for link in path.live]


def _bound(blobs: Blobs, link: Link, path: LoadedPath, opened: ExitStack) -> BoundLink:
    def read() -> Checkpoint:
        with ExitStack() as closed:
            return bind_link(blobs, link, path, closed).checkpoint

    config, weights = link.file(ADAPTER_CONFIG), link.file(ADAPTER_WEIGHTS)
    exact = "" if path.exact is None else path.exact.digest
    known = _Link((config.digest, weights.digest, path.base.table.digest, path.base.index.digest, exact), read)
    return BoundLink(_checkpoint(known), _OpenedLater(blobs, weights, opened))


@dataclass(frozen=True)
class _Link:
    """A cache key: all digests that a checkpoint depends on, and how to read it."""

    digests: tuple[str, ...]
    read: Callable[[], Checkpoint] = field(compare=False)


@lru_cache(maxsize=16)
def _checkpoint(link: _Link) -> Checkpoint:
    return link.read()


class _OpenedLater:
    """A blob that is opened when it is read first."""

    def __init__(self, blobs: Blobs, blob: BlobRef, opened: ExitStack) -> None:
        self._blobs, self._blob, self._opened = blobs, blob, opened
        self._source: ByteSource | None = None

    @property
    def size(self) -> int:
        return self._blob.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._source is None:
            source = self._blobs.open_blob(self._blob)
            self._opened.callback(source.close)
            self._source = source
        self._source.read_into(offset, buffer)


_AT_ONCE: Final = 1 << 20


def copies_tell(blobs: Blobs, others: Sequence[LoadedPath], checkpoint: Checkpoint, source: ByteSource) -> bool:
    """Whether an adapter's copies of whole weights, which match its parent, differ from those of every other path."""
    if not checkpoint.copies or not others:
        return False
    with ExitStack() as open_blobs:
        return all(
            any(misfit is not None for _, misfit in _misfits(blobs, other, checkpoint, source, open_blobs))
            for other in others
        )


def check_lineage(blobs: Blobs, parent: LoadedPath, checkpoint: Checkpoint, source: ByteSource) -> None:
    """Check a new adapter against its parent's path.

    Args:
        blobs: where the parent's blobs are.
        parent: the path of the parent revision.
        checkpoint: the new adapter, checked on its own.
        source: its adapter_model.safetensors.

    Raises:
        InvalidAdapterError: ``lineage_mismatch``; ``non_finite``, it changes rows of the base model that hold NaN or
            infinity; ``tied_partial`` if tied tensors differ; or what `registry.tensors.path.programs.path_programs`
            raises.
    """
    with ExitStack() as open_blobs:
        table = path_table(blobs, parent)
        programs = path_programs([*parent_links(blobs, parent, open_blobs), BoundLink(checkpoint, source)], table)
        check_changed_rows(blobs, parent, programs)
        check_twins(checkpoint, source)
        check_alphas(checkpoint, source)
        _check_constants(blobs, parent, checkpoint, source, open_blobs)
        for copy, misfit in _misfits(blobs, parent, checkpoint, source, open_blobs):
            if misfit is not None:
                raise InvalidAdapterError(
                    f"Tensor {copy.name!r} is not the weight of the parent {parent.reference}: element {misfit} "
                    "differs by more than rounding. The adapter was trained on another parent; publish it under that "
                    "one.",
                    code="lineage_mismatch",
                )


def _check_constants(
    blobs: Blobs, path: LoadedPath, checkpoint: Checkpoint, source: ByteSource, open_blobs: ExitStack
) -> None:
    """Check that indices, masks and the like are the base's, bit for bit."""
    table = path_table(blobs, path)
    _check_floats(blobs, path, checkpoint, table)
    if not checkpoint.constants:
        return
    tensors = base_weights(blobs, path, open_blobs).tensors
    for name, entry in checkpoint.constants.items():
        held = table.parameters.get(name)
        there = tensors.get(held.tensor) if held is not None and not held.runs else None
        if there is None or there[1].dtype != entry.dtype:
            raise InvalidAdapterError(
                f"Tensor {entry.name!r} has dtype {entry.dtype}, and the base model has no such tensor of that dtype; "
                f"expected one of {', '.join(FLOATS)}.",
                code="bad_dtype",
            )
        if not _same_bytes(source, entry, *there):
            raise InvalidAdapterError(
                f"Tensor {entry.name!r} holds integers ({entry.dtype}) that differ from the base model's, which "
                "training never changes. Publish the adapter under the base model that it was trained on.",
                code="lineage_mismatch",
            )


def _check_floats(blobs: Blobs, path: LoadedPath, checkpoint: Checkpoint, table: TargetTable) -> None:
    """Check that no float tensor replaces an integer one: casting a whole file also casts its indices."""
    held = {name: table.parameters[name] for name in checkpoint.values if name in table.parameters}
    if not held:
        return
    dtypes = read_document(blobs, path.base.index)["tensors"]
    for name, parameter in held.items():
        kept = None if parameter.runs else dtypes[parameter.tensor]["dtype"]
        if kept in WHOLE_NUMBERS:
            entry = checkpoint.values[name].entry
            raise InvalidAdapterError(
                f"Tensor {entry.name!r} has dtype {entry.dtype}, but the base model has {kept} there, and training "
                "does not change that. Save the adapter again without casting it.",
                code="bad_dtype",
            )


def _same_bytes(one: ByteSource, first: TensorEntry, other: ByteSource, second: TensorEntry) -> bool:
    size = first.stop - first.start
    if size != second.stop - second.start:
        return False
    steps = ((at, min(at + _AT_ONCE, size)) for at in range(0, size, _AT_ONCE))
    return all(
        read_range(one, first.start + start, first.start + stop)
        == read_range(other, second.start + start, second.start + stop)
        for start, stop in steps
    )


def _misfits(
    blobs: Blobs, path: LoadedPath, checkpoint: Checkpoint, source: ByteSource, open_blobs: ExitStack
) -> Iterator[tuple[TensorEntry, tuple[int, int] | None]]:
    """Every copy in an adapter, with the first element in which it is not the weight of a path; None: it matches."""
    if not checkpoint.copies:
        return
    table = path_table(blobs, path)
    programs = path_programs(parent_links(blobs, path, open_blobs), table).programs
    base = BaseTensors(base_weights(blobs, path, open_blobs).tensors)
    for module, copy in checkpoint.copies.items():
        slot = slot_of_target(table.targets[module])
        yield copy, _misfit(copy, source, base, programs.get(slot) or Program(slot, (), origin_of(slot, table)))


def _misfit(copy: TensorEntry, source: ByteSource, base: BaseTensors, program: Program) -> tuple[int, int] | None:
    copy_dtype = FLOATS[copy.dtype]
    base_dtype = copy_dtype if program.origin is None else base.dtype(program.origin)
    shorter = coarser(base_dtype, copy_dtype)
    held = copy_dtype if program.origin is None else base.exact_dtype(program.origin)
    roundings = links_of(program) + (shorter is not held)
    values = base.values(program, torch.float64, merge_products=False)

    def worst(index: int) -> tuple[float, int, int]:
        """Largest excess over the tolerance in a block, and its row and column."""
        expected = rounded_block(values, index)
        first = index * values.rows_a_block
        rows, columns = expected.values.shape
        found = read_rows(source, copy, first, first + rows).to(torch.float64)
        excess = (found - expected.values).abs() - roundings * expected.unit(shorter)
        at = int(excess.argmax())
        return excess.flatten()[at].item(), first + at // columns, at % columns

    for excess, row, column in in_order(worst, range(values.blocks)):
        if not excess <= 0:
            return row, column
    return None
