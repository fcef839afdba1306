"""The kind ``lora``: one PEFT adapter that equals several, for the base model or the merged model of an ancestor."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from registry.engines.parts import BaseFacts, Parts, parts_of_changes
from registry.engines.rules import Part
from registry.errors import UsageError
from registry.schemas.form import Layout
from registry.services.artifacts.commits import commit_below
from registry.services.artifacts.readme.facts import readme_file
from registry.tensors.arithmetic.dtypes import OPTION_DTYPES
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.composed.comfyui import comfyui_file
from registry.tensors.composed.composition import Composition
from registry.tensors.composed.flattened import Aside
from registry.tensors.composed.forms import BaseRepo, is_called_bias, is_under
from registry.tensors.composed.gguf_file import gguf_file
from registry.tensors.composed.layouts import diffusers_file, layout_notices, only_component
from registry.tensors.composed.mlx_folder import mlx_files
from registry.tensors.lineage.bound import bound_links, weight_notices
from registry.tensors.lineage.inputs import Inputs, exact_as_lora
from registry.tensors.lineage.paths import Link, read_blob
from registry.tensors.lineage.plan import Builder, Built, Order, below
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.targets import TargetKind
from registry.transfer.model_files import CONFIG

_OF_TEXT: Final = ("gguf", "mlx")
"""Layouts of text models; all modules have one rank in them."""


def _build(order: Order) -> Built:
    options, plan, table = order.options, order.plan, order.inputs.table
    sums = torch.float32 if options.layout is None else torch.float64  # others round nothing before they write
    aside = order.inputs.opened.enter_context(Aside()) if options.plain else None
    composition, bound, since = _composition(order.inputs, order.links, sums, aside)
    dtype = OPTION_DTYPES[options.dtype or "fp32"]
    truncation = None
    if options.rank is not None or options.max_error is not None:
        truncation = composition.truncate(rank=options.rank, max_error=options.max_error, dtype=dtype)
        plan = replace(plan, ranks=composition.ranks)
    if options.uniform or options.layout in _OF_TEXT:
        composition.make_uniform()
    files = _files(order, composition, bound[since:], dtype)
    if plan.base_model is not None:
        config = bound[-1].checkpoint.config.document
        files.append(readme_file(order.inputs.blobs, order.path, plan, config, order.ancestor))
    notices = [*composition.notices, *weight_notices(zip(order.path.live, bound, strict=True))]
    if options.layout is not None and options.layout not in _OF_TEXT:
        dense = options.dense_as_diff
        notices += layout_notices(composition.parts, table, options.layout, dtype, dense=dense)
    return Built(plan, files, tuple(notices), truncation)


def _composition(
    inputs: Inputs, links: Sequence[Link], sums: torch.dtype, aside: Aside | None = None
) -> tuple[Composition, Sequence[BoundLink], int]:
    """The last links of a path as one adapter, all that are live bound, and the number of the first of those."""
    exact = next((link for link in links if link.is_exact), None)
    if exact is not None:
        raise exact_as_lora(inputs.path, exact)
    bound = bound_links(inputs, inputs.path.live)
    since = len(bound) - len(links)
    base = BaseTensors(inputs.base_weights().tensors)
    programs = path_programs(bound, inputs.table)
    return Composition(bound, since, programs, base, inputs.table, sums=sums, aside=aside), bound, since


def parts_of_path(inputs: Inputs, links: Sequence[Link], base: BaseFacts) -> Parts:
    """What the last links of a path change, also where no adapter of PEFT holds it: from headers alone.

    Raises:
        InvalidAdapterError: ``not_composable``, one of them is an exact revision, or they adapt a module inside one
            that they replace.
    """
    composition, _, _ = _composition(inputs, links, torch.float64)
    parts, ranks = composition.parts, composition.ranks
    forms = parts.forms
    kinds = {target.module: target.kind for target, _ in forms.pairs}
    kinds |= {module: forms.saved[module].kind for module in forms.diagonals}
    replaced = forms.saved_modules.difference(forms.diagonals)
    found: dict[Part, Collection[str]] = {
        "not_low_rank": forms.diagonals,
        "dora": parts.scaled,
        "replaced": replaced,
        "biases": {name for name in forms.values if is_called_bias(name) and not is_under(name, replaced)},
        "tokens": forms.tokens,
        "embeddings": {module for module, kind in kinds.items() if kind is TargetKind.EMBEDDING},
        "convolutions": {module for module, kind in kinds.items() if kind is TargetKind.CONV},
        "modules": {module for module, kind in kinds.items() if kind is TargetKind.LINEAR},
    }
    return parts_of_changes(found, max(ranks.values(), default=0), base)


def _files(order: Order, composition: Composition, links: Sequence[BoundLink], dtype: str) -> list[ArtifactFile]:
    """The weights, and what stands with them, in the layout that was requested."""
    layout, table = order.options.layout, order.inputs.table
    if layout in _OF_TEXT:
        return _for_text(order, composition, dtype)
    if layout is not None:
        _check_image(order, layout)
    if layout == "diffusers":
        return [diffusers_file(composition.parts, table, dtype)]
    if layout == "comfyui":
        return [comfyui_file(composition.parts, table, dtype, dense=order.options.dense_as_diff)]
    lead = "" if layout is None else only_component(composition.parts, table).lead
    return composition.files(dtype=dtype, base_repo=_base_repo(order), hints=_hints(links), lead=lead)


def _for_text(order: Order, composition: Composition, dtype: str) -> list[ArtifactFile]:
    """What the readers of text models load."""
    parts = composition.parts
    config = next((file for file in order.path.base.files if file.path == CONFIG), None)
    document = {} if config is None else json.loads(read_blob(order.inputs.blobs, config))
    if order.options.layout == "gguf":
        return [gguf_file(parts, document, dtype)]
    return mlx_files(parts, document, dtype)


def _check_image(order: Order, layout: Layout) -> None:
    """Refuse a layout of image models for another one; raises `UsageError`."""
    if not order.inputs.is_image_model:
        raise UsageError(
            f"{order.path.base.name} is no image or video model, and the layout {layout} is for those: leave it out."
        )


def _hints(links: Iterable[BoundLink]) -> dict[str, Any]:
    """How the adapter is to be loaded, by the links' configurations; later links override earlier ones."""
    found: dict[str, Any] = {}
    for link in links:
        document = link.checkpoint.config.document
        found.update({key: document[key] for key in ("task_type", "auto_mapping") if document.get(key) is not None})
    return found


def _base_repo(order: Order) -> BaseRepo:
    """The model that the adapter applies to, at its commit id in the Hub views.

    That revision exists in the repo, whichever view the adapter is loaded from.
    """
    path, ancestor = order.path, order.ancestor
    model = below(path, ancestor)
    tip = ancestor.links[-1].digest if ancestor and ancestor.links else None
    return BaseRepo(model.repo_id, commit_below(model, path.base, tip))


COMPOSED = Builder(_build)
