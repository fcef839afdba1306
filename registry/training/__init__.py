"""Publishes what is being trained: from the loop of transformers' Trainer, and from any other one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from registry.training.callback import RegistryCallback
    from registry.training.publishing import publish_model

__all__ = ["RegistryCallback", "publish_model"]

_ELSEWHERE: Final = {"RegistryCallback": "callback", "publish_model": "publishing"}

if not TYPE_CHECKING:  # nothing is loaded before it is used: transformers takes seconds

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
