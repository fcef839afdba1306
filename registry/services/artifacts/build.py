"""Artifacts of a path, made by the builder of their kind: its files are laid out, and no tensor is computed yet."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Final

from registry.errors import UsageError
from registry.memory import MemoryCache
from registry.schemas import ArtifactKind, Options
from registry.schemas.artifacts import KINDS, check_options, check_ranks
from registry.schemas.form import MeasuredRows
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import Plan
from registry.tensors.lineage.inputs import Inputs, stored_files
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.tensors.lineage.plan import Builder, Built, Order, links_of, make_plan

PUBLISHED: Final = Builder(
    lambda order: Built(order.plan, stored_files(order.inputs.blobs, order.path.tip_files, order.inputs.opened))
)
"""The stored files of an adapter or a base model, byte for byte: they are handed out without torch."""


def builder_of(kind: ArtifactKind) -> Builder:
    """The builder of a kind, which its row names."""
    module, _, name = KINDS[kind].builder.partition(":")
    found: Builder = getattr(import_module(f".{module}", __package__), name)
    return found


def build_artifact(
    blobs: Blobs,
    path: LoadedPath,
    ancestor: LoadedPath | None,
    options: Options,
    memory: MemoryCache | None = None,
    plan: Plan | None = None,
    measured: MeasuredRows | None = None,
) -> Artifact:
    """The artifact of a loaded path.

    Args:
        blobs: where its files are read from.
        path: the path down to the revision.
        ancestor: the path of ``options.since``.
        options: kind, dtype, rank and so on.
        memory: the cache of a service.
        plan: if it was made already.
        measured: the rows of which fidelity is measured when they are made; only merged models have it.

    Raises:
        UsageError: the options contradict each other or the reference.
        AccuracyError: the requested error can't be reached.
        ConflictError: ``retable_needed``, the base model's target table lacks what the path needs.
    """
    check_asked(path, options)
    links, plan = links_of(path, ancestor, options), plan or make_plan(path, ancestor, options)
    with ExitStack() as open_blobs:
        order = Order(Inputs(blobs, path, open_blobs, plan.onto), links, ancestor, options, plan, memory, measured)
        built = builder_of(options.kind).build(order)
        release = open_blobs.pop_all().close
        return Artifact(
            built.plan,
            built.files,
            notices=built.notices,
            truncation=built.truncation,
            meter=built.meter,
            release=release,
        )


def check_asked(path: LoadedPath, options: Options) -> None:
    """Refuse options that contradict each other or the reference; raises `UsageError`."""
    check_options(options)
    weights = [link.weight for link in path.weighted(options.weights).links]
    if weights != [link.weight for link in path.links]:
        raise AssertionError(f"the links of {path.reference} don't have the weights that were requested")
    if KINDS[options.kind].is_composed and not path.links:
        raise UsageError(f"{path.reference} is a base model: it has no adapters to compose; fetch it --as merged.")
    check_ranks(options.rank, options.max_error)


def check_kept(blobs: Blobs, path: LoadedPath, options: Options) -> None:
    """Check that a materialisation may be served: an older version may have made it with an incomplete table.

    Raises:
        ConflictError: ``retable_needed``, as from `build_artifact`.
    """
    with ExitStack() as open_blobs:
        builder_of(options.kind).check_kept(Inputs(blobs, path, open_blobs))
