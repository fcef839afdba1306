"""Every public name of the Python API, with its docstring: methods and properties of what users hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import registry
from registry.operations.readable import ReadableArtifact, ReadableFile
from registry.operations.registry import Registry

NEEDS_NO_EXAMPLE: Final = (ReadableArtifact, ReadableFile)
"""Short attributes, which the example of the class shows."""


def methods(kind: type) -> list[str]:
    """The public methods and properties of a class."""
    return [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]


def documented() -> Iterator[tuple[str, str]]:
    """Names and docstrings of all that has, or has to have, one."""
    yield "connect", inspect.getdoc(registry.connect) or ""
    for kind in (Registry, ReadableArtifact, ReadableFile):
        yield kind.__name__, inspect.getdoc(kind) or ""
        for name in methods(kind):
            yield f"{kind.__name__}.{name}", inspect.getdoc(getattr(kind, name)) or ""


def with_examples() -> dict[str, str]:
    """Those that have an example."""
    return {name: text for name, text in documented() if ">>> " in text}
