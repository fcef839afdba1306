"""Run by test_materialising: materialises net/one as merged in a process of its own, and is killed on the way."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from registry.services import materialise
from tests.kit.places import open_deployment, open_registry


class _Killed:
    """Progress that ends the process at its first byte."""

    def begin(self, what: str, total: int) -> None:
        del what, total

    def advance(self, amount: int) -> None:
        del amount
        os._exit(9)


def _kill(*given: object) -> NoReturn:
    del given
    os._exit(9)


def main(spec: str, at: str) -> None:
    """``at``: ``computing``, or ``stored``: the bytes are stored and the row is not written."""
    registry = open_registry(spec, open_deployment(spec))
    if at == "computing":
        registry.materialise("net/one", kind="merged", progress=_Killed())
    else:
        setattr(materialise, "_make_visible", _kill)  # noqa: B010 - a function of another type
        registry.materialise("net/one", kind="merged")


if __name__ == "__main__":
    main(*sys.argv[1:])
