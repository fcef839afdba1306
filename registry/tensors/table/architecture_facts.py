"""Facts about a model that was built on the meta device, as plain data for `registry.tensors.table.architecture`.

It runs in the child process of `registry.tensors.table.architecture_child` only. All facts are JSON.
"""

from __future__ import annotations

from typing import Any, Final

# Subclasses of nn.Linear whose own forward is the same product, written differently.
_PLAIN_LINEARS: Final = frozenset({"FalconLinear"})


def facts_of(model: Any, tensors: dict[str, Any], named: bool) -> dict[str, Any]:
    """Everything that the target table needs to know of a model.

    ``tensors`` has the names of the file tensors as keys; ``named``: whether the config names the model's class.
    The answer has:

    - ``modules``: [name, kind, geometry, [[parameter, shape], ...]], the parameters in the order of registration;
    - ``direct``: file tensor -> the parameter or buffer that it is loaded into as it is;
    - ``conversions``: what is computed from file tensors, see `_conversion`;
    - ``ties``: groups of parameters that are one weight, the one that gives its value first;
    - ``flag_ties``: those of them that ``tie_word_embeddings`` ties;
    - ``renamed``: parameters of ``flag_ties`` that a file tensor of their name would not be loaded into as it is.
    """
    import transformers

    direct, conversions = _names(model, tensors)
    flag_ties = _flag_ties(model)
    tied = [name for group in flag_ties for name in group]
    own = _names(model, dict.fromkeys(tied))[0]
    return {
        "status": "built",
        "source": f"transformers {transformers.__version__}",
        "architecture": type(model).__name__,
        "named": named,
        "model_type": model.config.model_type or None,
        "prefix": model.base_model_prefix,
        "output_module": _output_module(model),
        "modules": _modules(model),
        "direct": direct,
        "conversions": conversions,
        "ties": [*flag_ties, *_shared(model)],
        "flag_ties": flag_ties,
        "renamed": sorted(name for name in tied if own.get(name) != name),
    }


def facts_of_component(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """The same of a model of diffusers, whose files name tensors as the running model does."""
    import diffusers

    state = model.state_dict()
    return {
        "status": "built",
        "source": f"diffusers {diffusers.__version__}",
        "architecture": type(model).__name__,
        "named": True,
        "model_type": None,
        "prefix": "",
        "output_module": None,
        "modules": _modules(model),
        "direct": {name: name for name in tensors if name in state},
        "conversions": [],
        "ties": _shared(model),
        "flag_ties": [],
        "renamed": [],
    }


def explained(facts: dict[str, Any]) -> int:
    """How many file tensors the model has a use for."""
    return len(facts["direct"]) + sum(len(names) for entry in facts["conversions"] for names in entry["sources"])


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
    A parameter of three dimensions is another matter: PEFT adds the delta to the parameter itself
    (``target_parameters``), whatever the module does with it, and only reads the module's ``is_transposed``.
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
    if hasattr(module, "parametrizations"):
        return "unknown", {}  # its weight is computed from others
    if own is not None:
        if cls.forward is own.forward or cls.__name__ in _PLAIN_LINEARS or hasattr(module, "embed_scale"):
            return known[own], _geometry(module) if known[own] == "conv" else {}
        return "unknown", {}
    if isinstance(module, nn.MultiheadAttention):
        return "attention" if module._qkv_same_embed_dim else "unknown", {}
    if any(value is not None and value.dim() == 3 for value in module._parameters.values()):
        return "experts", {"transposed": bool(getattr(module, "is_transposed", False))}
    return "unknown", {}


def _modules(model: Any) -> list[list[Any]]:
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        parameters = [[key, list(value.shape)] for key, value in module._parameters.items() if value is not None]
        if hasattr(module, "parametrizations"):
            parameters += [[key, list(getattr(module, key).shape)] for key in module.parametrizations]
        if parameters:
            found.append([name, *_kind(module), parameters])
    return found


def _names(model: Any, tensors: dict[str, Any]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """(file tensor -> the parameter that holds it as it is, what is computed from file tensors).

    The renaming is transformers' own, called as its loader calls it, in the order in which it collects tensors.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state, prefix = model.state_dict(), model.base_model_prefix
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {source: entry for entry in converters for source in entry.source_patterns}
    direct: dict[str, str] = {}
    collected: dict[str, list[tuple[str, str]]] = {}
    for tensor in sorted(tensors, key=lambda name: (dot_natural_key(name), name)):
        renamed, source = rename_source_key(tensor, renamings, converters, prefix, state)
        if renamed not in state and tensor in state:
            renamed, source = rename_source_key(tensor, [], [], prefix, state)
        if renamed not in state:
            continue
        if source is None:
            direct[tensor] = renamed
        else:
            collected.setdefault(renamed, []).append((source, tensor))
    return direct, [_conversion(name, sources, by_pattern, model.config) for name, sources in collected.items()]


def _conversion(name: str, sources: list[tuple[str, str]], by_pattern: dict[str, Any], config: Any) -> dict[str, Any]:
    """What the loader computes under one name.

    ``targets``: the parameters that come out; ``sources``: for each source pattern in order, the tensors that match it;
    ``operations``: [class name, its numbers and flags] in order, empty where more than one converter has a part in it;
    ``source_keys`` and ``target_keys``: the patterns, by which operations call what they take and give.
    """
    converters = list(dict.fromkeys(by_pattern[pattern] for pattern, _ in sources))
    first = converters[0]
    return {
        "targets": [name.replace(first.target_patterns[0], target, 1) for target in first.target_patterns],
        "target_keys": list(first.target_patterns),
        "source_keys": [wanted for converter in converters for wanted in converter.source_patterns],
        "sources": [
            [tensor for pattern, tensor in sources if pattern == wanted]
            for converter in converters
            for wanted in converter.source_patterns
        ],
        "operations": [
            [type(operation).__name__, _options(operation, config)]
            for operation in first.operations
            if len(converters) == 1
        ],
    }


def _options(operation: Any, config: Any) -> dict[str, Any]:
    """What an operation was made with, and the fields of the model's config that it reads."""
    options = {key: value for key, value in vars(operation).items() if _is_plain(value)}
    if type(operation).__name__ == "PermuteForRope":
        part = getattr(config, operation.subconfig_key, config) if operation.subconfig_key is not None else config
        options["heads"] = getattr(part, "num_attention_heads", 1)
    return options


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, str))


def _flag_ties(model: Any) -> list[list[str]]:
    """Groups that the model's loader ties; none of them where its ``tie_word_embeddings`` is false."""
    groups: dict[str, list[str]] = {}
    for target, source in model.all_tied_weights_keys.items():
        groups.setdefault(source, [source]).append(target)
    return list(groups.values())


def _shared(model: Any) -> list[list[str]]:
    """Groups that are one object."""
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return [names for names in shared.values() if len(names) > 1]


def _output_module(model: Any) -> str | None:
    try:
        output = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, module in model.named_modules() if module is output), None) if output else None
