"""Tensors that belong to quantised weights: packed numbers, and what quantisers keep beside them.

A name is a mark as a whole last part only: ``down_blocks`` is a module of every Stable Diffusion UNet, ``layer_scales``
a parameter of many nets, and neither says anything about how numbers are kept. Where a last part alone could be either
(``gate_up_proj_blocks``, ``codes``), the dtype decides: quantisers keep integers there, models train floats.
"""

from __future__ import annotations

import re
from typing import Final

from registry.files.header import TensorEntry

_MARKS: Final = re.compile(
    r"(?:^|\.)(?:"
    # bitsandbytes, 4 and 8 bits
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.[^.]+|SCB|weight_format|"
    # GPTQ and AWQ
    r"qweight|qzeros|g_idx|"
    # fp8, compressed-tensors, ModelOpt, EETQ
    r"weight_scale|weight_scale_2|weight_scales|weight_scale_inv|weight_global_scale|weight_packed|weight_shape|"
    r"weight_zero_point|weight_g_idx|"
    # HQQ and SINQ, torchao, quanto
    r"W_q|_weight_qdata|weight\._data|weight\._scale"
    r")$"
)
_PACKED: Final = re.compile(
    # any weight; MXFP4 (gpt_oss) and fp8 experts; AQLM
    r"(?:^|\.)(?:weight|[^.]+_blocks|[^.]+_scales|[^.]+_scale_inv|codes)$"
)
_SMALL_FLOATS: Final = ("F4", "F6_", "F8_")
_INTEGERS: Final = ("U8", "I8", "U16", "I16", "U32", "I32")


def is_quantised(entry: TensorEntry) -> bool:
    """Whether a tensor is packed weights, or what a quantiser keeps beside them.

    Integers that are neither, such as a byte mask (GPT-2's ``attn.bias``) and position ids, belong to any model.
    """
    if entry.dtype.startswith(_SMALL_FLOATS) or _MARKS.search(entry.name) is not None:
        return True
    return entry.dtype in _INTEGERS and _PACKED.search(entry.name) is not None
