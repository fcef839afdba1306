"""Merges paths into a running PyTorch model in place, bit for bit, and takes them out again."""

from registry.pool.pool import AdapterPool

__all__ = ["AdapterPool"]
