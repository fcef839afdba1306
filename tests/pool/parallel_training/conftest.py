from __future__ import annotations

from tests.kit.shelf import shelf

__all__ = ["shelf"]
