"""MXFP4 as gpt-oss has it: all experts of a layer in two tensors of codes, which transformers turns when it loads them.

``experts.gate_up_proj_blocks`` U8 (experts, out, in / 32, 16) holds 32 codes of four bits for each exponent of
``experts.gate_up_proj_scales`` U8 (experts, out, in / 32). The plain tensor ``experts.gate_up_proj`` is (experts, in,
out); gate and up stay interleaved in its columns (transformers 5.24: ``convert_moe_packed_tensors``).
"""

from __future__ import annotations

from typing import Final

from registry.files.strict_json import shown
from registry.quantised.fp8 import skipped_notices
from registry.quantised.reading import OF_ACTIVATIONS, Codes, Grid, Quantised, Reading, Scale, StoredTensor

_BLOCKS, _SCALES = "_blocks", "_scales"
_PROJECTIONS: Final = ("gate_up_proj", "down_proj")
_RUN: Final = 32  # codes that share a scale


def read(quantised: Quantised) -> Reading:
    """Read a checkpoint in MXFP4.

    Raises:
        InvalidBaseError: ``quantised_base``: a tensor violates the format.
    """
    decoded: dict[str, Grid] = {}
    dropped = set()
    for name, stored in quantised.tensors.items():
        module, _, last = name.rpartition(".")
        plain = name.removesuffix(_BLOCKS).removesuffix(_SCALES)
        if last in OF_ACTIVATIONS:
            dropped.add(name)
        elif plain != name and plain.rpartition(".")[2] in _PROJECTIONS:
            blocks, scales = (quantised.tensors.get(plain + part) for part in (_BLOCKS, _SCALES))
            if blocks is None or scales is None:
                missing = plain + (_BLOCKS if blocks is None else _SCALES)
                raise quantised.refuse(f"tensor {shown(name)} has no {shown(missing)} beside it", "both")
            decoded[plain] = _grid(quantised, plain, blocks, scales)
        elif last == "blocks" and f"{module}.scales" in quantised.tensors and stored.dtype == "U8":
            raise quantised.refuse(
                f"tensor {shown(name)} has the names of OpenAI's own files (original/)",
                "the layout of transformers, mlp.experts.gate_up_proj_blocks,",
            )
    return Reading(
        "mxfp4", decoded, frozenset(dropped), tuple(skipped_notices(quantised, decoded, "modules_to_not_convert"))
    )


def _grid(quantised: Quantised, plain: str, blocks: StoredTensor, scales: StoredTensor) -> Grid:
    for part, stored, rank in ((_BLOCKS, blocks, 4), (_SCALES, scales, 3)):
        if stored.dtype != "U8" or len(stored.shape) != rank:
            raise quantised.refuse(
                f"tensor {shown(plain + part)} is {stored.dtype} {list(stored.shape)}",
                "U8 (experts, out, in / 32, 16)" if rank == 4 else "U8 (experts, out, in / 32)",
            )
    experts, rows, runs, half = blocks.shape
    if half != _RUN // 2 or scales.shape != (experts, rows, runs):
        raise quantised.refuse(
            f"tensor {shown(plain + _BLOCKS)} has shape {list(blocks.shape)} and {shown(plain + _SCALES)} has "
            f"{list(scales.shape)}",
            "16 bytes of codes for each scale",
        )
    return Grid(
        (experts, rows, runs * _RUN),
        Codes(plain + _BLOCKS, "e2m1", 4),
        Scale(plain + _SCALES, "exponent", (1, _RUN)),
        transposed=True,
    )
