"""Rejects what vLLM can't load before vLLM gets it: vLLM fails late, with the reason in the server's log only.

The rules are those of `registry.engines.rules`, as for ``registry check --engine vllm``.
"""

from __future__ import annotations

import sys
from typing import Final

from registry.engines.checking import engine_check
from registry.engines.rules import ENGINES
from registry.errors import AccuracyError, InvalidAdapterError
from registry.operations.readable import ReadableArtifact

DEFAULT_MAX_RANK: Final = ENGINES["vllm"].rank or 1


def rank_for_vllm(reference: str, artifact: ReadableArtifact) -> int:
    """The largest rank in a composed adapter, checking that vLLM can load everything else in it.

    Raises:
        InvalidAdapterError: ``engine_limits``, it has a part that vLLM can't load.
    """
    found = engine_check(reference, artifact, "vllm", None)
    if found.reasons or found.rank is None:
        said = " ".join(reason.sentence for reason in found.reasons)
        here = running()
        if here is not None and here.partition("+")[0] != found.version:
            said += f" vLLM {here} runs here, and the rules are those of {found.version}."
        raise InvalidAdapterError(
            f"vLLM can't load {reference} as an adapter. {said} Serve the path merged (`{found.would_do}`).",
            code="engine_limits",
        )
    return found.rank


def running() -> str | None:
    """The version of the vLLM that asks; None: it is not known."""
    return getattr(sys.modules.get("vllm"), "__version__", None)


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
