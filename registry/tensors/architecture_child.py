"""Runs alone in a limited child process: builds a model class of transformers on the meta device and says what it saw.

It is run as a script in isolated mode (``python -I architecture_child.py CPU_SECONDS MEMORY_BYTES``), so it imports
nothing of this package. The request comes on stdin and the answer goes to stdout, one JSON document each:

- request: ``path`` (where Python packages lie), ``config`` (a parsed config.json), ``tensors`` (file tensor -> shape);
- answer: ``{"status": "unknown"}`` when transformers has no such model, ``{"status": "refused", "reason": ...}``, or
  ``{"status": "built", ...}`` with plain facts, which `registry.tensors.structure` turns into a table.

The config is a stranger's. No code but that of the installed packages is run: ``auto_map`` is dropped, nothing is
downloaded, and sockets and new processes are refused by an audit hook.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, Final

# Keys that choose code, downloads or kernels. The structure of a model does not depend on any of them.
_DROPPED: Final = frozenset(
    {
        "auto_map", "custom_pipelines", "quantization_config", "compression_config", "_name_or_path",
        "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "fusion_config",
    }
)  # fmt: skip
_REFUSED_EVENTS: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
)

# Weights and modules that a model may register: a fixed number, and some for each tensor that the files hold.
_ALLOWED_PARTS: Final = 20_000
_ALLOWED_PARTS_A_TENSOR: Final = 40

# Subclasses of nn.Linear whose own forward is the same product, written differently.
_PLAIN_LINEARS: Final = frozenset({"FalconLinear"})


class _Refused(Exception):  # noqa: N818 (it is an answer, not a fault)
    """The model can't be built; the text is the reason to show."""


def _cleaned(value: Any) -> Any:
    """A config without the keys that choose code."""
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items() if key not in _DROPPED}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _is_model(cls: Any) -> bool:
    from transformers import PreTrainedModel

    return isinstance(cls, type) and issubclass(cls, PreTrainedModel) and getattr(cls, "config_class", None) is not None


def _named_class(name: str, config_class: Any) -> Any:
    """The model class of that name in transformers, or None."""
    import importlib

    import transformers

    cls = getattr(transformers, name, None)
    if backends := getattr(cls, "_backends", None):
        raise _Refused(f"it needs the Python packages {', '.join(backends)}: install them")
    if cls is None and config_class is not None:
        # not every class is exported at the top: look beside the config class, configuration_x -> modeling_x
        head, _, leaf = config_class.__module__.rpartition(".")
        with contextlib.suppress(ImportError):
            cls = getattr(importlib.import_module(f"{head}.{leaf.replace('configuration', 'modeling')}"), name, None)
    return cls if _is_model(cls) else None


def _classes(config: dict[str, Any]) -> tuple[list[Any], Any, bool]:
    """(model classes to try, config class, whether the config itself names the class)."""
    import transformers

    model_type, named = config.get("model_type"), config.get("architectures")
    config_class = None
    if isinstance(model_type, str) and model_type in transformers.CONFIG_MAPPING:
        config_class = transformers.CONFIG_MAPPING[model_type]
    name = named[0] if isinstance(named, list) and named else None
    if isinstance(name, str) and name.isidentifier() and not name.startswith("_"):
        cls = _named_class(name, config_class)
        # transformers' own loaders go by the model type: a class of another type is not what they would build
        if cls is not None and model_type in (None, cls.config_class.model_type):
            return [cls], config_class or cls.config_class, True
    if config_class is None:
        return [], None, False
    found = []
    for mapping in (transformers.MODEL_MAPPING, transformers.MODEL_FOR_CAUSAL_LM_MAPPING):
        cls = mapping.get(config_class, None)
        cls = cls[0] if isinstance(cls, (list, tuple)) else cls
        if _is_model(cls) and cls not in found:
            found.append(cls)
    return found, config_class, False


@contextlib.contextmanager
def _part_limit(limit: int) -> Iterator[None]:
    """Stop a construction that registers more modules and weights than the files could ever fill."""
    from torch.nn.modules import module as hooks

    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise _Refused(f"it describes more than {limit} modules and weights, far more than the files hold")

    handles = [
        hooks.register_module_parameter_registration_hook(counted),
        hooks.register_module_module_registration_hook(counted),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _build(cls: Any, config_class: Any, config: dict[str, Any], limit: int) -> Any:
    import torch
    from transformers import initialization

    with contextlib.ExitStack() as stack:
        stack.enter_context(_part_limit(limit))
        for name in ("no_tie_weights", "meta_device_safe_creation_ops"):
            if hasattr(initialization, name):
                stack.enter_context(getattr(initialization, name)())
        built = config_class.from_dict(config)
        stack.enter_context(torch.device("meta"))
        return cls(built)


def _geometry(conv: Any) -> dict[str, Any]:
    return {
        "kernel": list(conv.kernel_size),
        "groups": conv.groups,
        "dilation": list(conv.dilation),
        "padding_mode": conv.padding_mode,
    }


def _kind(module: Any) -> tuple[str, dict[str, Any]]:
    """(`TargetKind`, geometry) of a module that holds a weight.

    A subclass with its own ``forward`` may do something else with its weight (grouped products, scaled outputs), and
    then W + BA is not what PEFT trained: it is unknown, unless it is a scaled embedding, whose scale PEFT applies too.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    cls = type(module)
    known = {
        nn.Linear: "linear",
        Conv1D: "conv1d",
        nn.Embedding: "embedding",
        nn.Conv1d: "conv",
        nn.Conv2d: "conv",
        nn.Conv3d: "conv",
    }
    own = next((entry for entry in known if issubclass(cls, entry)), None)
    kind = "unknown"
    if hasattr(module, "parametrizations"):
        pass  # its weight is computed from others
    elif own is not None:
        if cls.forward is own.forward or cls.__name__ in _PLAIN_LINEARS or hasattr(module, "embed_scale"):
            kind = known[own]
    elif isinstance(module, nn.MultiheadAttention):
        kind = "attention" if module._qkv_same_embed_dim else kind
    elif "Experts" in cls.__name__ or hasattr(module, "num_experts"):
        fused = any(value is not None and value.dim() == 3 for value in module._parameters.values())
        kind = "experts" if fused else kind
    return kind, _geometry(module) if kind == "conv" else {}


def _modules(model: Any) -> list[list[Any]]:
    """[name, kind, geometry, [[parameter, shape], ...]] of every module, parameters in the order of registration."""
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        parameters = [[key, list(value.shape)] for key, value in module._parameters.items() if value is not None]
        if hasattr(module, "parametrizations"):
            parameters += [[key, list(getattr(module, key).shape)] for key in module.parametrizations]
        if parameters:
            found.append([name, *_kind(module), parameters])
    return found


def _names(model: Any, tensors: dict[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(file tensor -> runtime parameter that holds it as it is, file tensor -> runtime parameters computed from it).

    The renaming is transformers' own, called as its loader calls it.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state, prefix = model.state_dict(), model.base_model_prefix
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    targets = {source: entry.target_patterns for entry in converters for source in entry.source_patterns}
    direct: dict[str, str] = {}
    computed: dict[str, list[str]] = {}
    for tensor in sorted(tensors, key=lambda name: (dot_natural_key(name), name)):
        renamed, source = rename_source_key(tensor, renamings, converters, prefix, state)
        if renamed not in state and tensor in state:
            renamed, source = rename_source_key(tensor, [], [], prefix, state)
        if renamed not in state:
            continue
        if source is None:
            direct[tensor] = renamed
        else:
            computed[tensor] = [renamed.replace(targets[source][0], target) for target in targets[source]]
    return direct, computed


def _ties(model: Any) -> list[list[str]]:
    """Groups of parameters that are one weight, the one that gives its value first."""
    groups: dict[str, list[str]] = {}
    for target, source in model.all_tied_weights_keys.items():
        groups.setdefault(source, [source]).append(target)
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return [*groups.values(), *(names for names in shared.values() if len(names) > 1)]


def _output_module(model: Any) -> str | None:
    try:
        output = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, module in model.named_modules() if module is output), None) if output else None


def _facts(model: Any, tensors: dict[str, Any], named: bool) -> dict[str, Any]:
    import transformers

    direct, computed = _names(model, tensors)
    return {
        "status": "built",
        "transformers": transformers.__version__,
        "architecture": type(model).__name__,
        "named": named,
        "model_type": model.config.model_type or None,
        "prefix": model.base_model_prefix,
        "output_module": _output_module(model),
        "modules": _modules(model),
        "direct": direct,
        "computed": computed,
        "ties": _ties(model),
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; every fault of a config is an answer too."""
    tensors = request["tensors"]
    try:
        classes, config_class, named = _classes(request["config"])
        if not classes:
            return {"status": "unknown"}
        config = _cleaned(request["config"])
        limit = _ALLOWED_PARTS + _ALLOWED_PARTS_A_TENSOR * len(tensors)
        answers = [_facts(_build(cls, config_class, config, limit), tensors, named) for cls in classes]
        return max(answers, key=lambda facts: len(facts["direct"]) + len(facts["computed"]))
    except _Refused as refusal:
        return {"status": "refused", "reason": str(refusal)}
    except MemoryError:
        return {"status": "refused", "reason": "it needs more memory than is allowed for this"}
    except RecursionError:
        return {"status": "refused", "reason": "it is nested too deeply"}
    except Exception as error:  # noqa: BLE001 (a stranger's config can make model code raise anything at all)
        return {"status": "refused", "reason": _sentence(error)}


def _sentence(error: Exception) -> str:
    """What an exception says, on one line, without the frames that torch adds and without a full stop."""
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    return f"{type(error).__name__}: {text[:200]}".rstrip(" .:")


def _stay_inside() -> None:
    """From here on: no word on the streams, no sockets, no new processes."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import torch  # noqa: F401 (before the hook: loading it may start processes)
    import transformers  # noqa: F401

    def refuse(event: str, _: Any) -> None:
        if event in _REFUSED_EVENTS:
            raise _Refused("it asks for something outside of this process")

    sys.addaudithook(refuse)


def main() -> None:
    """Set the limits, read the request, answer."""
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what libraries print must not end up in the answer
    stdout = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin.buffer)
    sys.path[:] = request["path"]
    _stay_inside()
    text = json.dumps(answer(request))
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    main()
