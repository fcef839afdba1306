"""Rejects what vLLM can't load before vLLM gets it: vLLM fails late, with the reason in the server's log only.

vLLM's own checks are in ``vllm/lora/peft_helper.py`` (0.33): DoRA, biases, whole modules other than the heads of
classifiers, and a rank above ``--max-lora-rank``. Rows of ``trainable_token_indices`` are tensors of unknown names to
it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from registry.errors import AccuracyError, InvalidAdapterError
from registry.operations.readable import ReadableArtifact

DEFAULT_MAX_RANK: Final = 16  # vLLM's default
_HEADS: Final = frozenset(["classifier", "score"])  # whole modules that newer versions load and check themselves
_CONFIG: Final = "adapter_config.json"


def rank_for_vllm(reference: str, artifact: ReadableArtifact) -> int:
    """The largest rank in a composed adapter, checking that vLLM can load everything else in it.

    Raises:
        InvalidAdapterError: ``engine_limits``, it has a part that vLLM can't load.
    """
    config = json.loads(artifact.file(_CONFIG).read())
    what = _unknown(config)
    if what is not None:
        raise InvalidAdapterError(
            f"{reference} {what}, which vLLM can't load as an adapter; serve the path merged "
            f"(`registry fetch {reference} --as merged`).",
            code="engine_limits",
        )
    return max([int(config["r"]), *map(int, config["rank_pattern"].values())])


def _unknown(config: dict[str, Any]) -> str | None:
    if config["use_dora"]:
        return "has DoRA links"
    saved = sorted(set(config["modules_to_save"] or ()) - _HEADS)
    if saved:
        return f"replaces the whole module {saved[0]}"
    tokens = config.get("trainable_token_indices")
    if tokens:
        return f"replaces rows of {min(tokens)} (trainable_token_indices)"
    if config["bias"] != "none":
        return "replaces biases"
    return None


def too_large(reference: str, rank: int, limit: int) -> InvalidAdapterError:
    """The error for a rank above the limit where no truncation is allowed."""
    return InvalidAdapterError(
        f"{reference} has rank {rank} but vLLM accepts at most {limit}; start vLLM with a larger --max-lora-rank and "
        "set REGISTRY_VLLM_MAX_RANK to the same, or allow an error with REGISTRY_VLLM_MAX_ERROR, such as 0.05, to "
        "have such adapters truncated.",
        code="engine_limits",
    )


def too_inexact(reference: str, rank: int, limit: int, problem: AccuracyError) -> AccuracyError:
    """The error for a rank that can't be truncated within the allowed error."""
    return AccuracyError(
        f"{reference} has rank {rank} but vLLM accepts at most {limit}, which REGISTRY_VLLM_MAX_ERROR does not allow. "
        f"{problem}"
    )
