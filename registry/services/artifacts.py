"""From a loaded path to an artifact: opens the blobs, lays out the files, computes nothing yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from registry.catalogue.blobs import StoredFile
from registry.errors import IntegrityError, InvalidAdapterError, UsageError
from registry.reference import Path, Reference
from registry.schemas import ArtifactKind, Dtype
from registry.services import side_files
from registry.services.deployment import Deployment
from registry.services.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.services.hashing import weight_files
from registry.services.model_files import CONFIG, INDEX
from registry.services.paths import Link, LoadedPath, load_path, target_table
from registry.tensors.artifact import Artifact, ArtifactFile, generated_file, source_file
from registry.tensors.checkpoint import Checkpoint, read_checkpoint
from registry.tensors.composed import composed_files
from registry.tensors.dtypes import OPTION_DTYPES
from registry.tensors.factors import TargetLinks, by_target
from registry.tensors.header import Header, read_header
from registry.tensors.lora_config import parse_config
from registry.tensors.merged import merged_file
from registry.tensors.model_config import changes_dtype, config_with_dtype, index_with_size
from registry.tensors.plan import Plan, PlanLink
from registry.tensors.source import ByteSource


def open_artifact(
    deployment: Deployment, ref: str, *, kind: ArtifactKind, since: str | None, dtype: Dtype | None
) -> Artifact:
    """The artifact that a reference means; see `registry.services.protocol.Registry.artifact`.

    Raises:
        UsageError: the options contradict each other or the reference.
        NotFoundError: the reference names nothing.
    """
    path = load_path(deployment, Reference.parse(ref))
    ancestor = None if since is None else load_path(deployment, Reference.parse(since))
    return build_artifact(deployment, path, kind=kind, ancestor=ancestor, dtype=dtype)


def build_artifact(
    deployment: Deployment,
    path: LoadedPath,
    *,
    kind: ArtifactKind,
    ancestor: LoadedPath | None = None,
    dtype: Dtype | None = None,
) -> Artifact:
    """The artifact of a loaded path."""
    plan, links = make_plan(path, kind=kind, ancestor=ancestor, dtype=dtype)
    with ExitStack() as open_blobs:
        builder = _Builder(deployment, path, open_blobs)
        if kind == "published":
            files = builder.published()
        elif kind == "lora":
            files = builder.lora(links, plan)
        else:
            files = builder.merged(links, dtype)
        return Artifact(plan, files, notices=builder.notices, release=open_blobs.pop_all().close)


def make_plan(
    path: LoadedPath, *, kind: ArtifactKind, ancestor: LoadedPath | None, dtype: Dtype | None
) -> tuple[Plan, tuple[Link, ...]]:
    """What will be computed, and the links that take part."""
    if kind == "published" and dtype is not None:
        raise UsageError("--dtype can't be given with --as published: these are the bytes as they were published.")
    if kind != "lora" and ancestor is not None:
        raise UsageError("--since goes with --as lora: only a composed adapter can leave links out.")
    if kind == "lora" and not path.links:
        raise UsageError(f"{path.reference} is a base model: it has no adapters to compose; fetch it --as merged.")
    links = path.links if ancestor is None else path.since(ancestor)
    if kind == "published":
        links = path.links[-1:]
    plan = Plan(
        kind=kind,
        base=path.base.digest,
        base_files=path.base.files_digest,
        table=path.base.table_digest,
        links=tuple(PlanLink(link.row.digest) for link in links),
        since=ancestor.links[-1].row.digest if ancestor and ancestor.links else None,
        dtype=dtype,
        base_repo=_repo_of(path, ancestor) if kind == "lora" else None,
    )
    return plan, links


def _repo_of(path: LoadedPath, ancestor: LoadedPath | None) -> str:
    """Repo id of the model that a composed adapter goes on, as the Hub views spell it."""
    below = ancestor.links[-1].row.path if ancestor and ancestor.links else path.base.name
    return Path.parse(below).repo_id


class _Builder:
    def __init__(self, deployment: Deployment, path: LoadedPath, open_blobs: ExitStack) -> None:
        self._deployment = deployment
        self._path = path
        self._open_blobs = open_blobs
        self._table = target_table(deployment, path.table)
        self.notices: list[str] = []

    def published(self) -> list[ArtifactFile]:
        stored = self._path.links[-1].files if self._path.links else self._path.base.files
        files = []
        for file in stored:
            source = self._source(file)
            header = read_header(source, what=file.path, error=IntegrityError) if _is_weights(file.path) else None
            files.append(source_file(file.path, source, header))
        return files

    def lora(self, links: tuple[Link, ...], plan: Plan) -> list[ArtifactFile]:
        read = [(link, *self._checkpoint(link)) for link in links]
        targets = by_target([(list(checkpoint.pairs.values()), source, 1.0) for _, checkpoint, source in read])
        hints: dict[str, Any] = {}
        for _, checkpoint, _ in read:
            document = checkpoint.config.document
            hints.update({key: document[key] for key in ("task_type", "auto_mapping") if document.get(key) is not None})
        dtype = OPTION_DTYPES[plan.dtype or "fp32"]
        return list(composed_files(targets, self._table, dtype=dtype, base_repo=plan.base_repo, hints=hints))

    def merged(self, links: tuple[Link, ...], dtype: Dtype | None) -> list[ArtifactFile]:
        read = [self._checkpoint(link) for link in links]
        targets = by_tensor(by_target([(list(checkpoint.pairs.values()), source, 1.0) for checkpoint, source in read]))
        by_name = {file.path: file for file in self._path.base.files}
        weights = weight_files(self._deployment.read_document(self._path.index))
        sources = {name: self._source(by_name.pop(name)) for name in weights}
        headers = {name: read_header(source, what=name, error=IntegrityError) for name, source in sources.items()}
        out_dtype = OPTION_DTYPES[dtype] if dtype else None
        files = [merged_file(name, sources[name], headers[name], targets, out_dtype) for name in weights]
        side = side_files.choose(by_name, [{file.path: file for file in link.files} for link in links])
        if dtype and changes_dtype(headers, OPTION_DTYPES[dtype]):
            files += self._rewritten(side, files, OPTION_DTYPES[dtype])
        return files + [source_file(name, self._source(file)) for name, file in side.items()]

    def _rewritten(self, side: dict[str, StoredFile], weights: list[ArtifactFile], dtype: str) -> list[ArtifactFile]:
        """config.json and the index for another dtype; takes them out of ``side``."""
        files = []
        if CONFIG in side:
            config = json.loads(self._deployment.read_blob(side.pop(CONFIG)))
            files.append(generated_file(CONFIG, config_with_dtype(config, dtype)))
        if INDEX in side:
            index = json.loads(self._deployment.read_blob(side.pop(INDEX)))
            headers: dict[str, Header] = {file.path: file.header for file in weights if file.header}
            files.append(generated_file(INDEX, index_with_size(index, headers)))
        return files

    def _checkpoint(self, link: Link) -> tuple[Checkpoint, ByteSource]:
        try:
            return open_checkpoint(self._deployment, link, self._path, self._open_blobs)
        except InvalidAdapterError as problem:
            # It was accepted when it was published, so a rule has become stricter since, or a byte was changed.
            raise InvalidAdapterError(f"{link.row.reference} can't be used: {problem}", code=problem.code) from problem

    def _source(self, file: StoredFile) -> ByteSource:
        reader = self._deployment.open_blob(file)
        self._open_blobs.callback(reader.close)
        return reader


def open_checkpoint(
    deployment: Deployment, link: Link, path: LoadedPath, open_blobs: ExitStack
) -> tuple[Checkpoint, ByteSource]:
    """A published revision's checkpoint, and the open file that holds its tensors."""
    config = parse_config(deployment.read_blob(link.file(ADAPTER_CONFIG)))
    source = deployment.open_blob(link.file(ADAPTER_WEIGHTS))
    open_blobs.callback(source.close)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    return read_checkpoint(config, header.entries, target_table(deployment, path.table)), source


def by_tensor(targets: Mapping[str, TargetLinks]) -> dict[str, TargetLinks]:
    """The same links by the base tensor that they change."""
    found: dict[str, TargetLinks] = {}
    for module, links in targets.items():
        tensor = links.target.tensor
        if tensor is None or tensor in found:
            raise InvalidAdapterError(
                f"Target module {module!r} does not have a tensor of its own in the base files.",
                code="not_supported_yet",
            )
        found[tensor] = links
    return found


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors") and "/" not in path
