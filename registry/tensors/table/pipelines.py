"""The target table of a pipeline: those of the components that adapters change, with the component in every name.

Nothing trains the VAE, the safety checker or an image encoder with LoRA, so they have no targets: their files are
copied as they are. Which components LoRA changes is what diffusers loads them into (``_lora_loadable_modules``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from registry.tensors.table.architecture import make_table
from registry.tensors.table.parameters import FileParameter, FusedParameter, Run
from registry.tensors.table.targets import TENSOR_NAMES, Target, TargetTable

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]

_ADAPTED: Final = re.compile(r"(unet|prior|decoder|transformer|text_encoder|text_conditioner|connectors)(_(ref|\d+))?")


def pipeline_table(class_name: str, configs: Mapping[str, Mapping[str, Any]], tensors: Tensors) -> TargetTable:
    """The table of a pipeline.

    Args:
        class_name: of model_index.json.
        configs: config.json of each component that has weights.
        tensors: dtype and shape of all tensors, named with their component.

    Raises:
        InvalidBaseError: what `registry.tensors.table.architecture.make_table` raises of a component.
    """
    tables = {}
    for name, config in configs.items():
        if _ADAPTED.fullmatch(name):
            lead = f"{name}."
            own = {tensor.removeprefix(lead): one for tensor, one in tensors.items() if tensor.startswith(lead)}
            tables[name] = make_table(config, own)
    known = all(table.knows_kinds for table in tables.values())
    targets: dict[str, Target] = {}
    parameters: dict[str, FileParameter] = {}
    ties: dict[str, str | None] = {}
    for name, table in tables.items():
        lead = f"{name}."
        certain = table.knows_kinds and not known  # of a table in which not all kinds are
        targets |= {lead + key: _target(one, lead, certain) for key, one in table.targets.items()}
        parameters |= {lead + key: _parameter(one, lead) for key, one in table.parameters.items()}
        ties |= {lead + key: holder and lead + holder for key, holder in (table.ties or {}).items()}
    sources = dict.fromkeys(table.source for table in tables.values())
    return TargetTable(
        targets=targets,
        parameters=parameters,
        source=", ".join(sources) if known else TENSOR_NAMES,
        architecture=class_name,
        components=tuple(tables),
        notices=tuple(f"{name}: {notice}" for name, table in tables.items() for notice in table.notices),
        ties=ties if any(table.ties is not None for table in tables.values()) else None,
    )


def _target(one: Target, lead: str, certain: bool) -> Target:
    return replace(
        one,
        module=lead + one.module,
        tensor=one.tensor and lead + one.tensor,
        tie=one.tie and lead + one.tie,
        fused=tuple(_fused(parameter, lead) for parameter in one.fused),
        runs=_runs(one.runs, lead),
        declared=one.declared or certain,
    )


def _fused(parameter: FusedParameter, lead: str) -> FusedParameter:
    return replace(parameter, pieces=tuple(replace(one, tensor=lead + one.tensor) for one in parameter.pieces))


def _parameter(one: FileParameter, lead: str) -> FileParameter:
    return FileParameter(lead + one.tensor, one.shape, _runs(one.runs, lead))


def _runs(runs: tuple[Run, ...], lead: str) -> tuple[Run, ...]:
    return tuple(replace(run, tensor=lead + run.tensor) for run in runs)
