"""The numerics fingerprint: which arithmetic this machine has.

The same product can round differently on another make of CPU or another build of torch. A small fixed probe goes
through the very kernels that artifacts use; its digest is part of every rendering, so that bytes made by different
arithmetic never pass for each other.
"""

from __future__ import annotations

from functools import cache

from registry.tensors.arithmetic.lanes import run_alone


def known_fingerprint() -> str | None:
    """The same if this process has probed it; None: it has not, and this does not make it."""
    return fingerprint() if fingerprint.cache_info().currsize else None


@cache
def fingerprint() -> str:
    """16 hex digits that name this machine's arithmetic; probes it once a process, with torch."""
    # Not before: what is only copied has plans too, and needs no torch.
    from registry.tensors.artifacts.probe import probe

    return run_alone(probe)
