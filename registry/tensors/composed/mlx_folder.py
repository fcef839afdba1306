"""A composed LoRA as mlx-lm reads it: the folder that its ``--adapter-path`` takes.

It makes layers of one rank and one scale for all modules that it is told (``linear_to_lora_layers`` of
mlx_lm/tuner/utils.py), and reads the factors transposed, by its own names of modules, which are transformers'. A module
that is told and has no factors in some layer gets a B of zeros there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from registry.tensors.artifacts.artifact import ArtifactFile, generated_file
from registry.tensors.composed.composition import ComposedParts
from registry.tensors.composed.forms import CONFIG
from registry.tensors.composed.spelling import turned, weights_file
from registry.tensors.composed.text_models import text_model, text_pairs

MLX: Final = "adapters.safetensors"


def mlx_files(parts: ComposedParts, config: Mapping[str, Any], dtype: str) -> list[ArtifactFile]:
    """The two files.

    Args:
        parts: of the path, with sums in float64 and one rank for all modules.
        config: its config.json.
        dtype: that of all tensors (``F32``).

    Raises:
        InvalidAdapterError: ``not_low_rank``; ``engine_limits`` for what else is not written.
    """
    model = text_model(config, "mlx")
    pairs = text_pairs(parts, model, "mlx")
    tensors = []
    for pair in pairs:
        tensors += [turned(pair.a, f"{pair.name}.lora_a"), turned(pair.b, f"{pair.name}.lora_b")]
    told = {
        "fine_tune_type": "lora",
        "num_layers": model.layers,
        "lora_parameters": {
            "rank": pairs[0].rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": sorted({pair.module for pair in pairs}),
        },
    }
    text = json.dumps(told, indent=2, sort_keys=True) + "\n"
    return [weights_file(tensors, dtype, MLX), generated_file(CONFIG, text.encode())]
