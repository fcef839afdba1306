"""What is trained on a model in each variant of a trial, and PEFT's own result of training and merging it.

The judge is PEFT itself, as it trains: each link is put on the merged model below it, filled with random numbers and
merged. Weights that the model ties are parted before, because PEFT trains the sides of a tie apart and then merges all
of them into the one that is shared, which is no function that was trained.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

Options = dict[str, Any]
"""Arguments of ``LoraConfig``."""

_FIRST: Final = {"r": 2, "lora_alpha": 4}
_SECOND: Final = {"r": 3, "lora_alpha": 3, "use_rslora": True}


CONVERTED: Final = "converted"
"""Among `Options`, and no argument of ``LoraConfig``."""

MAMBA: Final = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Types of which PEFT refuses to adapt any module called out_proj or conv1d."""


def linear(model: Any) -> list[Options] | None:
    """Everything that PEFT calls linear."""
    if not _of_class(model, "linear"):
        return None
    inside = _inside_attention(model)
    options: Options = {"target_modules": "all-linear"} | ({"exclude_modules": inside} if inside else {})
    return [{**options, **_FIRST}, {**options, **_SECOND}]


def embeddings(model: Any) -> list[Options] | None:
    """The linear modules, with all embeddings in the first link and the head in the second."""
    tables, head, lines = _of_class(model, "embedding"), _head(model), _of_class(model, "linear")
    if not tables:
        return None
    last = [head] if head is not None else tables
    middle = [name for name in lines if name != head][:4]
    return [
        {"target_modules": _exactly(model, tables + middle), **_FIRST},
        {"target_modules": _exactly(model, last + middle), **_SECOND},
    ]


def convolutions(model: Any) -> list[Options] | None:
    """Every convolution that PEFT can merge."""
    found = _of_class(model, "conv")
    options: Options = {"target_modules": _exactly(model, found)}
    return [{**options, **_FIRST}, {**options, **_SECOND}] if found else None


def attentions(model: Any) -> list[Options] | None:
    """Every ``nn.MultiheadAttention``."""
    found = [name for name, module in model.named_modules() if isinstance(module, torch.nn.MultiheadAttention)]
    options: Options = {"target_modules": _exactly(model, found)}
    return [{**options, **_FIRST}, {**options, **_SECOND}] if found else None


def parameters(model: Any) -> list[Options] | None:
    """Every parameter with a matrix for each expert: all of them first, then one of each module."""
    found = {
        name: [key for key, one in module._parameters.items() if one is not None and one.dim() == 3]
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.nn.Conv1d)
    }
    names = [f"{name}.{key}" for name, keys in found.items() for key in keys]
    some = [f"{name}.{keys[0]}" for name, keys in found.items() if keys]
    if not names:
        return None
    options: Options = {"target_modules": []}
    return [
        {**options, "target_parameters": names, **_FIRST},
        {**options, "target_parameters": some, "bias": "all", **_SECOND},
    ]


def values(model: Any) -> list[Options] | None:
    """What is replaced and not added: all biases, token rows, and the head; and some pairs, on what nothing shares."""
    lines = [name for name in _of_class(model, "linear") if name != _head(model) and not _tied(model, name)][:4]
    tables, head = _of_class(model, "embedding"), _head(model)
    if not lines:
        return None
    first: Options = {"target_modules": _exactly(model, lines), "bias": "all", **_FIRST}
    second: Options = {"target_modules": _exactly(model, lines), **_SECOND}
    tokens = _input_embedding(model)
    if tokens in tables:
        second["trainable_token_indices"] = {tokens: [1, 3, 5]}
    elif head is not None and not _tied(model, head):
        second["modules_to_save"] = [head]
    return [first, second]


def dora(model: Any) -> list[Options] | None:
    """Magnitudes on a few modules of every kind, then pairs on some of them and on others."""
    lines = _of_class(model, "linear")
    convs = [name for name in _of_class(model, "conv") if model.get_submodule(name).weight.dim() < 5]
    first = [*lines[:3], *_of_class(model, "embedding")[:1], *convs[:1]]
    if not lines:
        return None
    return [
        {"target_modules": _exactly(model, first), "use_dora": True, **_FIRST},
        {"target_modules": _exactly(model, [*lines[1:5], *convs[:1]]), **_SECOND},
    ]


def containers(model: Any) -> list[Options] | None:
    """Modules that are trained whole, with parameters of their own and others below; then biases."""
    lines = [name for name in _of_class(model, "linear") if name != _head(model) and not _tied(model, name)]
    found: list[str] = []
    for name, module in model.named_modules():
        own = any(one is not None for one in module._parameters.values())
        below = any(True for child in module.children() for _ in child.parameters())
        if name and own and below and not any(name.startswith(f"{one}.") for one in found):
            found.append(name)
    found = [name for name in found if not any(_tied(model, inner) for inner in _modules_in(model, name))][:2]
    outside = [name for name in lines if not any(name.startswith(f"{one}.") for one in found)][:4]
    others = [name for name, _ in model.named_modules()]
    # PEFT also wraps a module whose name only ends with the letters, and merges no wrapper that is inside another
    found = [name for name in found if sum(other.endswith(name) for other in others) == 1]
    if not found or not outside:
        return None
    options: Options = {"target_modules": _exactly(model, outside)}
    return [{**options, "modules_to_save": found, **_FIRST}, {**options, "bias": "all", **_SECOND}]


VARIANTS: Final[Mapping[str, Callable[[Any], list[Options] | None]]] = {
    "linear": linear,
    "embeddings": embeddings,
    "embeddings-other": embeddings,  # with the opposite of the type's own tie_word_embeddings
    "parameters": parameters,
    "convolutions": convolutions,
    "attentions": attentions,
    "values": values,
    "containers": containers,
    "dora": dora,
}
"""Name -> the links, root first; None where the model has nothing of the kind."""


def _inside_attention(model: Any) -> list[str]:
    """Output projections of ``nn.MultiheadAttention``: its forward never calls them, so PEFT trains nothing there."""
    return [f"{name}.out_proj" for name, one in model.named_modules() if isinstance(one, torch.nn.MultiheadAttention)]


def _exactly(model: Any, names: list[str]) -> list[str] | str:
    """``target_modules`` for these modules and no other: PEFT takes a name of a list for the end of a name, too."""
    others = {name for name, _ in model.named_modules()} - set(names)
    if any(other.endswith(f".{name}") for other in others for name in names):
        return "|".join(re.escape(name) for name in names)
    return names


def _of_class(model: Any, kind: str) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    inside = set(_inside_attention(model))
    found = []
    for name, module in model.named_modules():
        if not name or name in inside:
            continue
        match kind:
            case "linear":
                fits = isinstance(module, torch.nn.Linear | Conv1D)
            case "embedding":
                fits = isinstance(module, torch.nn.Embedding) and _looks_up(module)
            case _:
                fits = isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) and _merges(module)
        if fits:
            found.append(name)
    return found


def _merges(conv: Any) -> bool:
    """Whether PEFT 0.21 can merge a pair into the convolution."""
    plain = conv.groups == 1 and all(one == 1 for one in conv.dilation) and conv.padding_mode == "zeros"
    return plain and not (len(conv.kernel_size) == 3 and conv.kernel_size[:2] == (1, 1)) and not _weight_normed(conv)


def _weight_normed(module: Any) -> bool:
    return hasattr(module, "parametrizations")


def _looks_up(module: Any) -> bool:
    """Whether an embedding's forward is the plain look-up, perhaps scaled: PEFT's own branch is nothing else."""
    return type(module).forward is torch.nn.Embedding.forward or hasattr(module, "embed_scale")


def _head(model: Any) -> str | None:
    try:
        output = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, one in model.named_modules() if one is output), None) if output is not None else None


def _tied(model: Any, module: str) -> bool:
    """Whether transformers says that another module has the same weight, or the same bias."""
    ties: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    return module in {name.rpartition(".")[0] for name in (*ties, *ties.values())}


def _modules_in(model: Any, name: str) -> list[str]:
    return [f"{name}.{inner}" if inner else name for inner, _ in model.get_submodule(name).named_modules()]


def _input_embedding(model: Any) -> str | None:
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, one in model.named_modules() if one is found), None)


def parted(model: Any) -> Any:
    """The model with a weight of its own for each name; modules that are registered twice are two."""
    seen: set[int] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in seen and name and any(True for _ in module.parameters()):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, copy.deepcopy(module))
        seen.add(id(module))
    held: set[int] = set()
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) in held:
                module._parameters[key] = torch.nn.Parameter(parameter.detach().clone())
            held.add(id(parameter))
    return model


def tied_by_peft(variant: str) -> bool:
    """Whether PEFT keeps the sides of a tie together itself: it does unless they have pairs of their own."""
    return variant in ("containers", "parameters", "values")


def trained(folder: Path, model: Any, options: Options, seed: int, seen: Callable[[Any], None] = lambda _: None) -> Any:
    """Train a link on the model (random numbers), save it into the folder, and return the merged model.

    ``seen`` is shown the model as it was trained, before anything is merged. A link that moves the base's weights to
    begin with (`CONVERTED`) is saved as what it is relative to the weights it found, as the pages of PEFT say.
    """
    import peft

    if getattr(getattr(model, "config", None), "model_type", None) in MAMBA:
        options = {**options, "exclude_modules": r"(.*\.)?(out_proj|conv1d)"}
    start = folder.with_name(f"{folder.name}-start") if options.get(CONVERTED) else None

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**_with_configs(options)))
        wrapped.create_or_update_model_card = lambda _: None  # takes longer than the weights
        if start is not None:
            config = wrapped.peft_config["default"]
            way, config.init_lora_weights = config.init_lora_weights, True
            wrapped.save_pretrained(start)
            config.init_lora_weights = way
        with torch.no_grad():
            for name, one in wrapped.named_parameters():
                frozen = "lora_A" in name and bool(one.any())  # where A begins as zeros, B is what is not trained
                if "lora_B" in name or "lora_embedding" in name or ("lora_A" in name and not frozen):
                    one.copy_(torch.randn_like(one) * 0.1)
                elif one.requires_grad and "lora_A" not in name:
                    one.add_(torch.randn_like(one) * 0.05)
        seen(wrapped.eval())
        try:
            wrapped.save_pretrained(
                folder, path_initial_model_for_weight_conversion=None if start is None else str(start)
            )
        except NotImplementedError:  # the model does not say which its embeddings are, for which PEFT looks
            wrapped.save_pretrained(folder, save_embedding_layers=False)
        return wrapped.merge_and_unload()


def _with_configs(options: Options) -> Options:
    """The arguments, with the nested ones as the objects that PEFT wants."""
    from peft import EvaConfig, LoftQConfig, MontecloraConfig, VeloraConfig
    from peft.tuners.lora.config import BdLoraConfig, KasaConfig

    makers = {
        "use_bdlora": BdLoraConfig, "velora_config": VeloraConfig, "monteclora_config": MontecloraConfig,
        "kasa_config": KasaConfig, "eva_config": EvaConfig, "loftq_config": LoftQConfig,
    }  # fmt: skip
    return {
        name: makers[name](**value) if name in makers else value for name, value in options.items() if name != CONVERTED
    }


def loaded_and_merged(model: Any, folder: Path) -> Any:
    """The model with an adapter that PEFT loads from a folder, merged: see `loaded_by_peft`."""
    loaded = loaded_by_peft(model, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loaded.merge_and_unload()


def loaded_by_peft(model: Any, folder: Path) -> Any:
    """The model with an adapter that PEFT loads from a folder; in float64 where the model is.

    Raises `LookupError` where PEFT has no place for a tensor of the file: it drops those without a word.
    """
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig.from_pretrained(str(folder))
        config.init_lora_weights = True  # all of them are read; and some ways of drawing them know no float64
        loaded = peft.PeftModel.from_pretrained(model, str(folder), config=config, autocast_adapter_dtype=False)
        known = {*peft.get_peft_model_state_dict(loaded, save_embedding_layers=False), *loaded.state_dict()}
        known |= {f"{name}.weight" for name in known if name.endswith("lora_magnitude_vector")}  # loaded by both names
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            if dropped := sorted(set(file.keys()) - known):
                raise LookupError(f"PEFT has no place for {', '.join(dropped[:4])} ({len(dropped)})")
    return loaded.eval()
