"""Base models as an older version of the registry added them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from registry.services.bases import add


@contextmanager
def of_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables are made as before they told of ties beside those of weights, and of heads that only the files part."""
    understood = add.understood
    with monkeypatch.context() as patch:
        patch.setattr(add, "understood", lambda model: replace(understood(model), ties=None))
        patch.setattr(add, "parted_by_files", lambda table, _: table)
        yield
