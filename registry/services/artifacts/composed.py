"""The kind ``lora``: one PEFT adapter that equals several, for the base model or the merged model of an ancestor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from registry.errors import UsageError
from registry.schemas.form import Layout
from registry.services.artifacts.commits import commit_below
from registry.services.artifacts.readme.facts import readme_file
from registry.tensors.arithmetic.dtypes import OPTION_DTYPES
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.composed.comfyui import comfyui_file
from registry.tensors.composed.composition import Composition
from registry.tensors.composed.forms import BaseRepo
from registry.tensors.composed.layouts import diffusers_file, only_component
from registry.tensors.lineage.bound import bound_links, weight_notices
from registry.tensors.lineage.inputs import exact_as_lora
from registry.tensors.lineage.plan import Builder, Built, Order, below
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs


def _build(order: Order) -> Built:
    options, plan, table = order.options, order.plan, order.inputs.table
    exact = next((link for link in order.links if link.is_exact), None)
    if exact is not None:
        raise exact_as_lora(order.path, exact)
    bound = bound_links(order.inputs, order.path.live)
    since = len(bound) - len(order.links)
    base = BaseTensors(order.inputs.base_weights().tensors)
    sums = torch.float32 if options.layout is None else torch.float64  # others round nothing before they write
    composition = Composition(bound, since, path_programs(bound, table), base, table, sums=sums)
    dtype = OPTION_DTYPES[options.dtype or "fp32"]
    truncation = None
    if options.rank is not None or options.max_error is not None:
        truncation = composition.truncate(rank=options.rank, max_error=options.max_error, dtype=dtype)
        plan = replace(plan, ranks=composition.ranks)
    if options.uniform:
        composition.make_uniform()
    files = _files(order, composition, bound[since:], dtype)
    if plan.base_model is not None:
        config = bound[-1].checkpoint.config.document
        files.append(readme_file(order.inputs.blobs, order.path, plan, config, order.ancestor))
    notices = (*composition.notices, *weight_notices(zip(order.path.live, bound, strict=True)))
    return Built(plan, files, notices, truncation)


def _files(order: Order, composition: Composition, links: Sequence[BoundLink], dtype: str) -> list[ArtifactFile]:
    """The weights, and what stands with them, in the layout that was requested."""
    layout, table = order.options.layout, order.inputs.table
    if layout is not None:
        _check_image(order, layout)
    if layout == "diffusers":
        return [diffusers_file(composition.parts, table, dtype)]
    if layout == "comfyui":
        return [comfyui_file(composition.parts, table, dtype, dense=order.options.dense_as_diff)]
    lead = "" if layout is None else only_component(composition.parts, table).lead
    return composition.files(dtype=dtype, base_repo=_base_repo(order), hints=_hints(links), lead=lead)


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
