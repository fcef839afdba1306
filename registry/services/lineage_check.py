"""What an adapter's copies of whole weights tell about its parent.

PEFT saves ``M.base_layer.weight`` for an adapted embedding (``save_embedding_layers="auto"``). It is the weight that
the adapter was trained on, so it must be the composed parent's. A parent that was merged step by step in the base's
dtype rounds once a link, which is allowed for; anything beyond shows another parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch

from registry.errors import InvalidAdapterError
from registry.services.artifacts import by_tensor, open_checkpoint
from registry.services.deployment import Deployment
from registry.services.hashing import weight_files
from registry.services.paths import LoadedPath, target_table
from registry.tensors.checkpoint import Checkpoint
from registry.tensors.dtypes import FLOATS
from registry.tensors.factors import TargetLinks, by_target, read_rows
from registry.tensors.header import TensorEntry, read_header
from registry.tensors.lanes import in_order
from registry.tensors.merged import BlockMerge
from registry.tensors.source import ByteSource

_SUM_ERROR = 2.0**-20


def check_lineage(deployment: Deployment, parent: LoadedPath, checkpoint: Checkpoint, source: ByteSource) -> None:
    """Check a new adapter against its whole path.

    Args:
        deployment: where the parent's blobs are.
        parent: the path of the parent revision.
        checkpoint: the new adapter, checked on its own.
        source: its adapter_model.safetensors.

    Raises:
        InvalidAdapterError: ``lineage_mismatch``.
    """
    with ExitStack() as open_blobs:
        links = []
        for link in parent.links:
            above, blob = open_checkpoint(deployment, link, parent, open_blobs)
            links.append((list(above.pairs.values()), blob, 1.0))
        by_target([*links, (list(checkpoint.pairs.values()), source, 1.0)])
        targets = by_tensor(by_target(links))
        table = target_table(deployment, parent.table)
        for module, copy in checkpoint.copies.items():
            target = table.find(module)
            if target is None or target.tensor is None:
                raise InvalidAdapterError(
                    f"Tensor {copy.name!r} is a copy of a weight that has no tensor of its own in the base files; "
                    "adapters on tied weights can't be composed by this version yet.",
                    code="not_supported_yet",
                )
            tensor = target.tensor
            base, entry = _base_tensor(deployment, parent, tensor, open_blobs)
            _compare(copy, source, base, entry, targets, parent)


def _base_tensor(
    deployment: Deployment, parent: LoadedPath, tensor: str, open_blobs: ExitStack
) -> tuple[ByteSource, TensorEntry]:
    by_name = {file.path: file for file in parent.base.files}
    for name in weight_files(deployment.read_document(parent.index)):
        source = deployment.open_blob(by_name[name])
        open_blobs.callback(source.close)
        header = read_header(source, what=name, error=InvalidAdapterError)
        if tensor in header.entries:
            return source, header.entries[tensor]
    raise AssertionError(f"the target table names the tensor {tensor!r}, which the index lacks")


def _compare(
    copy: TensorEntry,
    source: ByteSource,
    base: ByteSource,
    entry: TensorEntry,
    targets: Mapping[str, TargetLinks],
    parent: LoadedPath,
) -> None:
    base_dtype, copy_dtype = FLOATS[entry.dtype], FLOATS[copy.dtype]
    coarser = max(base_dtype, copy_dtype, key=lambda dtype: torch.finfo(dtype).eps)
    links = targets.get(entry.name, TargetLinks.nothing(entry))
    roundings = len(links.links) + (coarser is not base_dtype)
    merge = BlockMerge(base, entry, links, torch.float64)
    alone = [BlockMerge(base, entry, TargetLinks(links.target, (link,)), torch.float64) for link in links.links]

    def worst(index: int) -> tuple[float, int, int]:
        """Largest excess over the tolerance in a block, and where."""
        expected, weight = merge.block(index), merge.base_block(index).to(torch.float64)
        first = index * merge.rows_a_block
        found = read_rows(source, copy, first, first + expected.shape[0]).to(torch.float64)
        # A step-by-step merge rounds each delta and each partial sum; this is at least as large as any of them.
        scale = sum(((one.block(index) - weight).abs() for one in alone), start=weight.abs())
        unit = torch.maximum(
            scale * max(torch.finfo(coarser).eps, _SUM_ERROR), torch.full_like(scale, torch.finfo(coarser).tiny)
        )
        excess = (found - expected).abs() - roundings * unit
        at = int(excess.argmax())
        return excess.flatten()[at].item(), first + at // merge.columns, at % merge.columns

    for excess, row, column in in_order(worst, range(merge.blocks)):
        if not excess <= 0:
            raise InvalidAdapterError(
                f"Tensor {copy.name!r} is not the weight of the parent {parent.reference}: element ({row}, {column}) "
                "differs by more than rounding. The adapter was trained on another parent; publish it under that one.",
                code="lineage_mismatch",
            )
