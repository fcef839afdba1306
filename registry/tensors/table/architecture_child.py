"""Runs alone in a limited child process: builds a model class on the meta device and reports it.

It is run as a script in isolated mode (``python -I architecture_child.py CPU_SECONDS MEMORY_BYTES``). The request comes
on stdin and the answer goes to stdout, one JSON document each:

- request: ``path`` (where Python packages lie), ``config`` (a parsed config.json), ``tensors`` (file tensor -> shape),
  ``library`` (transformers or diffusers, whose class it is), ``whole`` (whether to import everything, and not with
  `registry.tensors.table.stand_ins`);
- answer: ``{"status": "unknown"}`` when the library has no such model, ``{"status": "refused", "reason": ...}``, or
  ``{"status": "built", ...}`` with the facts of `registry.tensors.table.architecture_facts`, which
  `registry.tensors.table.architecture` turns into a table.

The config is a stranger's. No code but that of the installed packages is run: ``auto_map`` is dropped, nothing is
downloaded, and sockets and new processes are refused by an audit hook.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

# Keys that choose code, downloads or kernels. The structure of a model does not depend on any of them.
_DROPPED: Final = frozenset(
    {
        "auto_map", "custom_pipelines", "quantization_config", "compression_config", "_name_or_path",
        "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "fusion_config",
    }
)  # fmt: skip

# Weights and modules that a model may register: a fixed number, and some for each tensor that the files hold.
_ALLOWED_PARTS: Final = 20_000
_ALLOWED_PARTS_A_TENSOR: Final = 40

# Allocations between garbage collections: nearly all that is imported stays.
_COLLECT_AFTER: Final = 100_000


class _Refused(Exception):  # noqa: N818 (it is an answer, not a fault)
    """The model can't be built; the text is the reason to show."""


def _cleaned(value: Any) -> Any:
    """A config without the keys that choose code, and with the floats that transformers spells for JSON."""
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in ("NaN", "Infinity", "-Infinity"):
            return float(value["__float__"])
        return {key: _cleaned(item) for key, item in value.items() if key not in _DROPPED}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _is_model(cls: Any) -> bool:
    from transformers.modeling_utils import PreTrainedModel

    return isinstance(cls, type) and issubclass(cls, PreTrainedModel) and getattr(cls, "config_class", None) is not None


def _named_class(name: str, config_class: Any) -> Any:
    """The model class of that name in transformers, or None."""
    import importlib

    import transformers

    from registry.tensors.table import stand_ins

    cls = getattr(transformers, name, None)
    if backends := getattr(cls, "_backends", None):
        raise _Refused(f"it needs the Python packages {', '.join(backends)}: install them")
    if cls is None and config_class is not None:
        # not every class is exported at the top: look next to the config class, configuration_x -> modeling_x
        head, _, leaf = config_class.__module__.rpartition(".")
        with contextlib.suppress(ImportError):
            cls = getattr(importlib.import_module(f"{head}.{leaf.replace('configuration', 'modeling')}"), name, None)
    if cls is None and stand_ins.is_bare(transformers):
        raise _Refused("its class is found only where all of transformers is imported")
    return cls if _is_model(cls) else None


def _builds(model_type: Any, name: str) -> bool:
    """Whether one of transformers' loaders builds the class for the type: some types share their classes."""
    from transformers.models.auto import modeling_auto

    mappings = (value for key, value in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES"))
    found = (mapping.get(model_type, ()) for mapping in mappings)
    return any(name == one or (isinstance(one, tuple) and name in one) for one in found)


def _classes(config: dict[str, Any]) -> tuple[list[Any], Any, bool]:
    """(model classes to try, config class, whether the config itself names the class)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, named = config.get("model_type"), config.get("architectures")
    config_class = CONFIG_MAPPING[model_type] if isinstance(model_type, str) and model_type in CONFIG_MAPPING else None
    name = named[0] if isinstance(named, list) and named else None
    found = []
    if isinstance(name, str) and name.isidentifier() and not name.startswith("_"):
        cls = _named_class(name, config_class)
        # transformers' own loaders go by the model type: a class of another type is not what they would build
        if cls is not None and model_type in (None, cls.config_class.model_type):
            return [cls], config_class or cls.config_class, True
        if cls is not None and _builds(model_type, name):
            found.append(cls)
    if config_class is None:
        return [], None, False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
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

    from registry.tensors.table import stand_ins

    with contextlib.ExitStack() as stack:
        stack.enter_context(_part_limit(limit))
        for name in ("no_tie_weights", "meta_device_safe_creation_ops"):
            if hasattr(initialization, name):
                stack.enter_context(getattr(initialization, name)())
        built = config_class.from_dict(config)
        stand_ins.models_are_built()
        stack.enter_context(torch.device("meta"))
        return cls(built)


def _of_transformers(given: dict[str, Any], tensors: dict[str, Any], limit: int) -> dict[str, Any] | None:
    # here and not at the top: as a script, this file knows no package before it has read where packages lie
    from registry.tensors.table.architecture_facts import explained, facts_of

    classes, config_class, named = _classes(given)
    config = _cleaned(given)
    answers = [facts_of(_build(cls, config_class, config, limit), tensors, named) for cls in classes]
    return max(answers, key=explained, default=None)


def _is_component(cls: Any) -> bool:
    from diffusers import ModelMixin

    return isinstance(cls, type) and issubclass(cls, ModelMixin)


def _of_diffusers(given: dict[str, Any], tensors: dict[str, Any], limit: int) -> dict[str, Any] | None:
    import diffusers
    import torch

    from registry.tensors.table.architecture_facts import facts_of_component

    name = given["_class_name"]
    if not (isinstance(name, str) and name.isidentifier() and not name.startswith("_")):
        return None
    cls: Any = getattr(diffusers, name, None)
    if backends := getattr(cls, "_backends", None):
        raise _Refused(f"it needs the Python packages {', '.join(backends)}: install them")
    if not _is_component(cls):
        return None
    with _part_limit(limit), torch.device("meta"):
        return facts_of_component(cls.from_config(_cleaned(given)), tensors)


_LIBRARIES: Final[dict[str, Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any] | None]]] = {
    "transformers": _of_transformers,
    "diffusers": _of_diffusers,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; every fault of a config is an answer too."""
    tensors = request["tensors"]
    limit = _ALLOWED_PARTS + _ALLOWED_PARTS_A_TENSOR * len(tensors)
    try:
        facts = _LIBRARIES[request.get("library", "transformers")](request["config"], tensors, limit)
        return {"status": "unknown"} if facts is None else facts
    except _Refused as refusal:
        return {"status": "refused", "reason": str(refusal)}
    except MemoryError:
        return {"status": "refused", "reason": "it needs more memory than is allowed for this"}
    except RecursionError:
        return {"status": "refused", "reason": "it is nested too deeply"}
    except Exception as error:  # noqa: BLE001 (a stranger's config can make model code raise anything at all)
        return {"status": "refused", "reason": _sentence(error)}


def _sentence(error: Exception) -> str:
    """The message of an exception, on one line, without the frames that torch adds and without a full stop."""
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    return f"{type(error).__name__}: {text[:200]}".rstrip(" .:")


def _stay_inside(library: str, whole: bool) -> None:
    """From here on: no word on the streams, no sockets, no new processes."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from registry.tensors.table import stand_ins

    if not whole:
        stand_ins.install()
    import importlib

    import torch  # noqa: F401 (before the hook: loading it may start processes)

    importlib.import_module(library)

    from registry.tensors.limited import stay_inside

    stay_inside(_Refused("it needs something outside this process"))


def main() -> NoReturn:
    """Set the limits, read the request, answer, and end at once: taking apart all that was imported takes long."""
    gc.set_threshold(_COLLECT_AFTER)
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    # what libraries print must not end up in the answer
    stdout = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin.buffer)
    # this package last: its folder may be the current one, which is not to hide what is installed
    sys.path[:] = [*request["path"], str(Path(__file__).parents[3])]
    from registry.tensors.limited import set_limits

    set_limits(seconds, memory)
    try:
        _stay_inside(request["library"], request["whole"])
        found = answer(request)
    except ImportError as error:  # it is installed, but not with what it needs
        found = {"status": "refused", "reason": f"{request['library']} can't be imported ({_sentence(error)})"}
    text = json.dumps(found)
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        out.write(text)
    os._exit(0)


if __name__ == "__main__":
    main()
