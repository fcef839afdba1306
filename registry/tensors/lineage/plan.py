"""What an artifact is to be: its plan, the interface by which a kind makes its files of a path, and its description.

What a kind is without tensors stands in `registry.schemas.artifacts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from registry.digest import document_digest, hex_of
from registry.errors import UsageError
from registry.memory import MemoryCache
from registry.reference import Path
from registry.schemas import Options, Truncation
from registry.schemas.artifacts import KINDS, FourBits
from registry.schemas.form import MeasuredRows
from registry.schemas.receipt import ReceiptLink, ReceiptPlan
from registry.schemas.transfer import ArtifactFileEntry, ArtifactPlan
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile, Meter
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, Plan, PlanLink
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import Link, LoadedPath
from registry.version import __version__


@dataclass(frozen=True)
class Order:
    """A request to build an artifact, with checked options."""

    inputs: Inputs  # of the whole path
    links: tuple[Link, ...]  # those that the artifact contains
    ancestor: LoadedPath | None
    options: Options
    plan: Plan
    memory: MemoryCache | None  # of a service
    measured: MeasuredRows | None = None  # of which rows fidelity is measured when they are made; None: of none

    @property
    def path(self) -> LoadedPath:
        """The artifact's path."""
        return self.inputs.path


@dataclass(frozen=True)
class Built:
    """An artifact's files, laid out but not computed yet, with notices."""

    plan: Plan  # including the ranks that depend on values
    files: list[ArtifactFile]
    notices: tuple[str, ...] = ()
    truncation: Truncation | None = None
    meter: Meter | None = None


def _nothing(inputs: Inputs) -> None:
    del inputs


@dataclass(frozen=True)
class Builder:
    """The functions of a kind.

    ``build`` lays out the files. ``check_kept`` refuses to serve an older version's materialisation of a path that this
    version would not build; it raises `ConflictError` (``retable_needed``).
    """

    build: Callable[[Order], Built]
    check_kept: Callable[[Inputs], None] = _nothing


def links_of(path: LoadedPath, ancestor: LoadedPath | None, options: Options) -> tuple[Link, ...]:
    """The links of a path that an artifact contains.

    Raises:
        UsageError: the ancestor is not one of this path.
    """
    if KINDS[options.kind].tip_only:
        return path.links[-1:]
    return path.links if ancestor is None else path.since(ancestor)


def make_plan(path: LoadedPath, ancestor: LoadedPath | None, options: Options) -> Plan:
    """The plan, as far as it does not depend on values; raises what `links_of` raises."""
    return Plan(
        kind=options.kind,
        base=path.base.digest,
        base_files=path.base.files_digest,
        table=path.base.table_digest,
        links=tuple(PlanLink(link.digest, link.weight) for link in links_of(path, ancestor, options)),
        since=ancestor.links[-1].digest if ancestor and ancestor.links else None,
        dtype=options.dtype,
        uniform=options.uniform,
        layout=options.layout,
        dense_as_diff=options.dense_as_diff,
        plain=options.plain,
        onto=None if options.onto is None else trained_on(path),
        base_repo=below(path, ancestor).repo_id if KINDS[options.kind].is_composed else None,
        base_model=_base_model(path, ancestor) if _has_readme(path, options) else None,
    )


def _has_readme(path: LoadedPath, options: Options) -> bool:
    """Whether a README.md is made; ``comfyui`` is one file for a folder of many."""
    return not KINDS[options.kind].is_verbatim and bool(path.links) and options.layout != "comfyui"


def trained_on(path: LoadedPath) -> FourBits:
    """How the base model was quantised while the links of a path were trained, as far as they record it.

    Raises:
        UsageError: none of them records it, or two contradict each other.
    """
    said = {link.reference: link.trained_quantised for link in path.live if link.trained_quantised is not None}
    if not said:
        raise UsageError(
            f"Nothing says that {path.reference} was trained on quantised weights, which is what --onto trained makes "
            "again: publish it with --trained-quantised nf4:64:double, or leave the option out."
        )
    first, *others = said
    if other := next((one for one in others if said[one] != said[first]), None):
        raise UsageError(
            f"{first} was trained on {said[first]} and {other} on {said[other]}, so {path.reference} has no one base "
            "model that all of it was trained on: leave --onto trained out."
        )
    return said[first]


def _base_model(path: LoadedPath, ancestor: LoadedPath | None) -> str:
    """What README.md calls the model that the artifact is made of, or for."""
    model = below(path, ancestor)
    return path.base.hub_name if model.is_base else model.repo_id


def below(path: LoadedPath, ancestor: LoadedPath | None) -> Path:
    """The path of the model that a composed adapter applies to: the ancestor, or else the base model."""
    return Path.parse(ancestor.links[-1].path if ancestor and ancestor.links else path.base.name)


def described(
    path: LoadedPath, ancestor: LoadedPath | None, artifact: Artifact, *, with_files: bool = False
) -> ArtifactPlan:
    """The description of an artifact; ``with_files`` adds its files with their headers."""
    plan = artifact.plan
    return ArtifactPlan(
        reference=path.reference,
        kind=plan.kind,
        base=path.base.name,
        since=ancestor.reference if ancestor else None,
        plan=ReceiptPlan.model_validate(plan.document()),
        plan_digest=plan.digest,
        rendering=artifact.rendering,
        numerics=artifact.numerics,
        lineage=tuple(
            ReceiptLink(
                reference=link.reference,
                number=link.number,
                digest=link.digest,
                rank=link.rank,
                scalings=link.scalings,
                weight=link.weight,
            )
            for link in path.links
        ),
        notices=artifact.notices,
        truncation=artifact.truncation,
        torch=version("torch"),
        version=__version__,
        artifact_format=ARTIFACT_FORMAT,
        files=tuple(_entry(artifact, file) for file in artifact.files.values()) if with_files else (),
    )


def _entry(artifact: Artifact, file: ArtifactFile) -> ArtifactFileEntry:
    head = None if file.header is None else file.read(0, file.header.size)
    tag = etag(artifact.rendering, file.path)
    return ArtifactFileEntry(path=file.path, size=file.size, etag=tag, header=head, digest=file.digest)


def etag(rendering: str, path: str) -> str:
    """The ETag, without quotes, of an artifact's file; it identifies the bytes, also once they are materialised."""
    return hex_of(document_digest({"rendering": rendering, "file": path}))
