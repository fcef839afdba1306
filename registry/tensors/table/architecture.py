"""The target table of a base model whose architecture a library knows, made once when the base is added.

Where transformers or diffusers has the class that the config names, the class shows what every module is and which file
tensor it is loaded from. It is built on the meta device in a child process with limits on time and memory, because the
config is a stranger's. The denoisers of `registry.tensors.table.shipped` are known without that, and for any other net
the table comes from the tensor names.

The facts about a class come from `registry.tensors.table.architecture_facts`. Nothing here needs torch, transformers or
diffusers.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.strict_json import shown
from registry.tensors.limited import package_folders, run_script
from registry.tensors.table import architecture_child
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.shipped.facts import shipped_facts
from registry.tensors.table.targets import TargetTable

MEMORY_LIMIT: Final = 3 << 30
"""Bytes of private memory that the child may take; importing torch and transformers takes 0.45 GB of them."""

_CLASS: Final = "_class_name"
"""The key by which diffusers' config.json names the class of a component."""
_LACKING: Final = (
    "config.json names {} of diffusers, which is not installed here: what its modules are is taken from tensor names. "
    "Install adapter-registry[diffusers] where base models are added, and `registry base retable` asks the class."
)


def make_table(
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    time_limit: float = 120.0,
    memory_limit: int = MEMORY_LIMIT,
) -> TargetTable:
    """What every runtime module of a base model is in its files.

    ``config`` is the parsed config.json, None if it is missing; ``tensors`` is file tensor -> (dtype, shape) over all
    files. ``time_limit`` is in seconds, ``memory_limit`` in bytes; both bound the child process. Equal input gives an
    equal document on the same version of transformers or diffusers; those of `registry.tensors.table.shipped` depend on
    neither. Where diffusers, an extra, is not installed, its other classes are read by their tensor names.

    Raises `InvalidBaseError`: ``architecture`` when the model can't be built from its config within the limits or does
    not belong to these tensors, ``shape_mismatch`` when a tensor has another shape than the model's parameter.
    """
    if config is not None and (config.get("model_type") or config.get("architectures")):
        return _of_transformers(config, tensors, time_limit, memory_limit)
    if config is not None and isinstance(config.get(_CLASS), str):
        return _of_diffusers(config, tensors, time_limit, memory_limit)
    return table_from_names(tensors)


def _of_diffusers(
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    time_limit: float,
    memory_limit: int,
) -> TargetTable:
    name: str = config[_CLASS]
    if (known := shipped_facts(config, tensors)) is not None:
        return table_from_facts(known, tensors)
    if importlib.util.find_spec("diffusers") is None:
        return table_from_names(tensors, architecture=name, notices=(_LACKING.format(shown(name)),))
    facts = _ask_child(config, tensors, time_limit, memory_limit, library="diffusers", whole=True)
    if facts["status"] == "refused":
        raise _not_built(name, facts)
    if facts["status"] == "unknown":
        return table_from_names(tensors, architecture=name)
    return table_from_facts(facts, tensors)


def _of_transformers(
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    time_limit: float,
    memory_limit: int,
) -> TargetTable:
    def ask(*, whole: bool) -> dict[str, Any]:
        return _ask_child(config, tensors, time_limit, memory_limit, library="transformers", whole=whole)

    facts = ask(whole=False)
    if facts["status"] != "built":  # perhaps because it needs a package that a stand-in replaces
        facts = ask(whole=True)
    name, model_type = _named(config)
    if facts["status"] == "refused":
        raise _not_built(name, facts)
    if facts["status"] == "unknown":
        return table_from_names(tensors, architecture=name, model_type=model_type)
    if facts["named"]:
        return table_from_facts(facts, tensors)
    try:
        return table_from_facts(facts, tensors)
    except InvalidBaseError:
        # The class was only chosen by the model type: weights that it does not fit are another net's.
        return table_from_names(tensors, architecture=name, model_type=model_type)


def _named(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(architecture, model type) as the config spells them, where they are text."""
    architectures, model_type = config.get("architectures"), config.get("model_type")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    return name if isinstance(name, str) else None, model_type if isinstance(model_type, str) else None


def _not_built(name: str | None, facts: Mapping[str, Any]) -> InvalidBaseError:
    return _refused(f"the model of config.json{f' ({name})' if name else ''} can't be built: {facts['reason']}")


def _refused(reason: str) -> InvalidBaseError:
    return InvalidBaseError(f"The structure of the base can't be worked out: {reason}.", code="architecture")


def _ask_child(
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    time_limit: float,
    memory_limit: int,
    *,
    library: str,
    whole: bool,
) -> dict[str, Any]:
    """Run the child and read its answer; every way in which it can end without one is an `InvalidBaseError`."""
    request = {
        "path": package_folders(),
        "library": library,
        "whole": whole,
        "config": config,
        "tensors": {name: shape for name, (_, shape) in tensors.items()},
    }
    try:
        text = json.dumps(request).encode("utf-8", "surrogatepass")
    except (RecursionError, TypeError, ValueError) as error:
        raise _refused("config.json is nested too deeply or holds what JSON can't hold") from error
    out = _run([str(math.ceil(time_limit)), str(memory_limit)], text, time_limit)
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError as error:
        raise _refused(
            "the process that builds the model ended without a result, which happens when its config.json asks for "
            f"more than {memory_limit >> 20} MB of memory"
        ) from error
    return answer


def _run(arguments: list[str], request: bytes, time_limit: float) -> bytes:
    """The child's standard output; the child and all that it started are gone when this returns."""
    try:
        return run_script(architecture_child.__file__, arguments, request, time_limit)
    except TimeoutError as error:
        why = f"building the model took longer than {time_limit:g} s, so config.json asks for too much"
        raise _refused(why) from error
