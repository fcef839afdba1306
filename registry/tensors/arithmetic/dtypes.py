"""Dtypes of safetensors files: what torch, options and configurations call them."""

from __future__ import annotations

from typing import Final

import torch

FLOATS: Final[dict[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The dtypes that weights and factors may have."""

WHOLE_NUMBERS: Final = frozenset({"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"})
"""Dtypes of what no gradient changes: indices, masks, counts of batches."""

OPTION_DTYPES: Final[dict[str, str]] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Spelling of ``--dtype`` -> dtype in files."""

CONFIG_NAMES: Final[dict[str, str]] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What a model's config.json calls a dtype."""

TORCH: Final[dict[str, torch.dtype]] = FLOATS | {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Every dtype that torch can hold."""
