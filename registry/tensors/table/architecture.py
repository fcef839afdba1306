"""The target table of a base model, made once when the base is added.

Where transformers knows the architecture that the config names, its own class says what every module is and which
file tensor it is loaded from. The class is built on the meta device in a child process with limits on time and memory,
because the config is a stranger's. For any other net the table comes from the tensor names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.tensors.limited import package_folders, run_script
from registry.tensors.table import architecture_child
from registry.tensors.table.structure import table_from_facts
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.tensor_names import table_from_names

MEMORY_LIMIT: Final = 3 << 30
"""Bytes of private memory that the child may take; importing torch and transformers takes 0.45 GB of them."""


def make_table(
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    time_limit: float = 120.0,
    memory_limit: int = MEMORY_LIMIT,
) -> TargetTable:
    """What every runtime module of a base model is in its files.

    ``config`` is the parsed config.json, None when there is none; ``tensors`` is file tensor -> (dtype, shape) over all
    files. ``time_limit`` is in seconds, ``memory_limit`` in bytes; both bound the child process. Equal input gives an
    equal document on the same version of transformers.

    Raises `InvalidBaseError`: ``architecture`` when the model can't be built from its config within the limits or does
    not belong to these tensors, ``shape_mismatch`` when a tensor has another shape than the model's parameter.
    """
    if config is None or not (config.get("model_type") or config.get("architectures")):
        return table_from_names(tensors)
    facts = _ask_child(config, tensors, time_limit, memory_limit, whole=False)
    if facts["status"] != "built":  # by chance for want of what a stand-in stands for
        facts = _ask_child(config, tensors, time_limit, memory_limit, whole=True)
    name, model_type = _named(config)
    if facts["status"] == "refused":
        raise _refused(f"the model of config.json{f' ({name})' if name else ''} can't be built: {facts['reason']}")
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


def _refused(reason: str) -> InvalidBaseError:
    return InvalidBaseError(f"The structure of the base can't be worked out: {reason}.", code="architecture")


def _ask_child(
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    time_limit: float,
    memory_limit: int,
    *,
    whole: bool,
) -> dict[str, Any]:
    """Run the child and read its answer; every way in which it can end without one is an `InvalidBaseError`."""
    request = {
        "path": package_folders(),
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
        raise _too_long(time_limit) from error


def _too_long(time_limit: float) -> InvalidBaseError:
    return _refused(f"building the model took longer than {time_limit:g} s, so config.json asks for too much")
