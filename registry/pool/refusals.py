"""Which running models can be merged into in place; all others are refused by name, before anything is read.

Classes are recognised by their names, so that none of these libraries is imported. The body of a model is what runs
below its head.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import torch
from torch import nn

from registry.errors import UsageError
from registry.tensors.arithmetic.dtypes import FLOATS

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


_WRAPPERS: Final = {
    "FullyShardedDataParallel": "is wrapped by FSDP, which keeps its weights in pieces",
    "FSDPModule": "is wrapped by FSDP, which keeps its weights in pieces",
    "DistributedDataParallel": "is wrapped by DistributedDataParallel: give its .module",
    "DataParallel": "is wrapped by DataParallel: give its .module",
    "OptimizedModule": "is what torch.compile returned: give the model that was compiled",
    "ScriptModule": "is a script of torch.jit, which keeps its own copy of the weights",
}
_QUANTISERS: Final = frozenset(
    {"aqlm", "auto_gptq", "auto_round", "autoawq", "awq", "bitsandbytes", "compressed_tensors", "eetq", "gptqmodel"}
    | {"hqq", "quanto", "torchao", "vptq"}
)


def check_model(model: nn.Module) -> None:
    """Refuse a model whose weights are not all plain float tensors on one device.

    Raises:
        UsageError: ``unsupported_model``.
    """
    reason = next(_obstacles(model), None)
    if reason is not None:
        raise UsageError(f"The model {reason}; its weights can't be merged in place.", code="unsupported_model")


def _obstacles(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            yield from _obstacles_in_class(kind, name)
        if getattr(module, "_hf_hook", None) is not None:
            yield "is dispatched by accelerate: offloaded, or split over devices"
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        yield "is quantised"
    devices: dict[torch.device, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            yield from _obstacles_in_tensor(tensor, name)
            devices.setdefault(tensor.device, name)
    if len(devices) > 1:
        first, second = list(devices.items())[:2]
        yield f"is split over devices: {first[1]!r} is on {first[0]}, {second[1]!r} on {second[0]}"


def _obstacles_in_class(kind: type, name: str) -> Iterator[str]:
    where = f" (module {name!r})" if name else ""
    package = kind.__module__.partition(".")[0]
    if package == "peft":
        yield f"has PEFT's {kind.__name__} in it{where}: give the model below, without adapters"
    if kind.__name__ in _WRAPPERS:
        yield _WRAPPERS[kind.__name__] + where
    if package in _QUANTISERS or kind.__module__.startswith(("optimum.quanto", "torch.ao.nn.")):
        yield f"is quantised{where}, by {kind.__module__}"


def _obstacles_in_tensor(tensor: torch.Tensor, name: str) -> Iterator[str]:
    kind = type(tensor)
    if tensor.is_meta:
        yield f"is offloaded: {name!r} is on the meta device"
    if kind.__name__ in ("DTensor", "ShardedTensor", "FlatParameter"):
        yield f"is distributed: {name!r} is a {kind.__name__}"
    elif kind not in (torch.Tensor, nn.Parameter):
        yield f"is quantised, or not loaded: {name!r} is a {kind.__module__}.{kind.__name__}"
    elif tensor.layout is not torch.strided:
        yield f"is sparse: {name!r}"
    elif tensor.dtype not in FLOATS.values() and (tensor.is_floating_point() or isinstance(tensor, nn.Parameter)):
        yield f"is quantised: {name!r} is {str(tensor.dtype).removeprefix('torch.')}"
