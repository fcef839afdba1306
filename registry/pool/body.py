"""The part of a model that is a base model: sentence-transformers puts modules of its own around it.

Classes are told by their names, so that none of these libraries is imported.
"""

from __future__ import annotations

import sys

from torch import nn

_PACKAGE = "sentence_transformers"


def body_of(model: nn.Module) -> nn.Module:
    """The model of transformers in a `SentenceTransformer` or `CrossEncoder`; any other model itself."""
    if not any(kind.__module__.partition(".")[0] == _PACKAGE for kind in type(model).__mro__):
        return model
    inner = (one for one in model.modules() if any(kind.__name__ == "PreTrainedModel" for kind in type(one).__mro__))
    return next(inner, model)


def sorting_caller() -> str | None:
    """The method of sentence-transformers that runs now in this thread and sorts its inputs by length; None: none."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == _PACKAGE and frame.f_code.co_name in ("encode", "predict"):
            return frame.f_code.co_name
    return None
