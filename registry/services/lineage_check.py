"""What an adapter's copies of whole weights tell about its parent.

PEFT saves ``M.base_layer.weight`` for an adapted embedding (``save_embedding_layers="auto"``). It is the weight that
the adapter was trained on, so it must be the composed parent's. A parent that was merged step by step in the base's
dtype rounds once a link, which is allowed for; anything beyond shows another parent.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch

from registry.errors import InvalidAdapterError
from registry.services.artifacts import base_tensors, bind_link
from registry.services.lineage import Blobs, LoadedPath, target_table
from registry.tensors.arithmetic.lanes import in_order
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.twins import check_twins
from registry.tensors.factors.matrices import read_rows
from registry.tensors.factors.slots import slot_of_target
from registry.tensors.files.dtypes import FLOATS
from registry.tensors.files.header import TensorEntry
from registry.tensors.files.source import ByteSource
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, Program, origin_of, path_programs
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Rescale, SetRows

_SUM_ERROR = 2.0**-20


def check_lineage(blobs: Blobs, parent: LoadedPath, checkpoint: Checkpoint, source: ByteSource) -> None:
    """Check a new adapter against its whole path.

    Args:
        blobs: where the parent's blobs are.
        parent: the path of the parent revision.
        checkpoint: the new adapter, checked on its own.
        source: its adapter_model.safetensors.

    Raises:
        InvalidAdapterError: ``lineage_mismatch``; ``tied_partial`` where tied tensors differ; or what
            `registry.tensors.path.programs.path_programs` raises.
    """
    with ExitStack() as open_blobs:
        table = target_table(blobs, parent.base)
        links = [bind_link(blobs, link, parent, open_blobs) for link in parent.links]
        path_programs([*links, BoundLink(checkpoint, source)], table)
        check_twins(checkpoint, source)
        if not checkpoint.copies:
            return
        programs = path_programs(links, table).programs
        base = BaseTensors(base_tensors(blobs, parent, open_blobs)[1])
        for module, copy in checkpoint.copies.items():
            slot = slot_of_target(table.targets[module])
            program = programs.get(slot) or Program(slot, (), origin_of(slot, table))
            _compare(copy, source, base, program, parent)


def _compare(copy: TensorEntry, source: ByteSource, base: BaseTensors, program: Program, parent: LoadedPath) -> None:
    copy_dtype = FLOATS[copy.dtype]
    base_dtype = copy_dtype if program.origin is None else FLOATS[base.entry(program.origin.tensor).dtype]
    coarser = max(base_dtype, copy_dtype, key=lambda dtype: torch.finfo(dtype).eps)
    roundings = len({step.link for step in program.steps}) + (coarser is not base_dtype)
    values = base.values(program, torch.float64, merge_products=False)

    def worst(index: int) -> tuple[float, int, int]:
        """Largest excess over the tolerance in a block, and where."""
        expected, scale = _with_scale(values, index)
        first = index * values.rows_a_block
        found = read_rows(source, copy, first, first + expected.shape[0]).to(torch.float64)
        unit = torch.maximum(
            scale * max(torch.finfo(coarser).eps, _SUM_ERROR), torch.full_like(scale, torch.finfo(coarser).tiny)
        )
        excess = (found - expected).abs() - roundings * unit
        at = int(excess.argmax())
        return excess.flatten()[at].item(), first + at // expected.shape[1], at % expected.shape[1]

    for excess, row, column in in_order(worst, range(values.blocks)):
        if not excess <= 0:
            raise InvalidAdapterError(
                f"Tensor {copy.name!r} is not the weight of the parent {parent.reference}: element ({row}, {column}) "
                "differs by more than rounding. The adapter was trained on another parent; publish it under that one.",
                code="lineage_mismatch",
            )


def _with_scale(values: SlotValues, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A block of the parent's weight, and what its roundings are relative to.

    A step-by-step merge rounds each delta and each partial sum; the scale is at least as large as any of them.
    """
    before = scale = torch.empty(0)
    for step, now in values.trace(index):
        if step is None:
            scale = now.abs()
        elif isinstance(step, Rescale):
            # a rescaling is by the same factor for the whole oriented row, whatever the element
            norms = [_norms(block, transposed=values.slot.transposed) for block in (before, now)]
            scale = torch.maximum(scale * (norms[1] / norms[0]).nan_to_num(1.0), now.abs())
        elif isinstance(step, SetRows):
            scale = torch.where(now != before, now.abs(), scale)
        else:
            scale = scale + (now - before).abs()
        before = now.clone()
    return before, scale


def _norms(block: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """Norms of a block's oriented rows (the rows of this block alone where they are columns), to be broadcast."""
    norms: torch.Tensor = torch.linalg.vector_norm(block, dim=0 if transposed else 1, keepdim=True)
    return norms
