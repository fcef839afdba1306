"""Merges paths into a running PyTorch model in place, bit for bit, and takes them out again."""

from registry.pool.pool import AdapterPool

__all__ = ["AdapterPool"]


def __dir__() -> list[str]:
    """What users call, for the completion of shells."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
