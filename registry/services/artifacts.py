"""From a loaded path to an artifact: opens the blobs, lays out the files, computes nothing yet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from registry.errors import IntegrityError, InvalidAdapterError, UsageError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.memory import MemoryCache
from registry.reference import Path
from registry.schemas import Dtype, Options, Truncation
from registry.services import side_files
from registry.services.commits import commit_below
from registry.services.hashing import weight_files
from registry.services.lineage import Blobs, Link, LoadedPath, read_blob, read_document, target_table
from registry.services.model_listing import CONFIG, INDEX
from registry.storage.place import BlobPlace
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile, generated_file, source_file
from registry.tensors.artifacts.merged import merged_file
from registry.tensors.artifacts.model_config import (
    changes_dtype,
    config_with_dtype,
    index_of,
    labelled_config,
    labels_of_new_head,
    untied_config,
    write_json,
)
from registry.tensors.artifacts.plan import Plan, PlanLink
from registry.tensors.checkpoint.lora_config import parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.composed.composition import Composition
from registry.tensors.composed.config import BaseRepo
from registry.tensors.files.dtypes import OPTION_DTYPES
from registry.tensors.files.header import Header, TensorEntry, read_header
from registry.tensors.files.source import ByteSource
from registry.tensors.path.kept_factors import KeptFactors, SharedFactors
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, NewTensor, PathPrograms, path_programs
from registry.tensors.truncation.rank_choice import check_options


def build_artifact(
    blobs: Blobs,
    path: LoadedPath,
    ancestor: LoadedPath | None,
    options: Options,
    memory: MemoryCache | None = None,
) -> Artifact:
    """The artifact of a loaded path; ``ancestor`` is what ``options.since`` names, ``memory`` that of a service.

    Raises:
        UsageError: the options contradict each other or the reference.
        AccuracyError: the asked-for error can't be reached.
    """
    _check_options(options, path)
    links = path.links if ancestor is None else path.since(ancestor)
    plan = make_plan(path, path.links[-1:] if options.kind == "published" else links, ancestor, options)
    with ExitStack() as open_blobs:
        builder = _Builder(blobs, path, open_blobs)
        if options.kind == "published":
            files = builder.published()
        elif options.kind == "lora":
            files, plan = builder.lora(links, plan, ancestor, options)
        else:
            kept = None if memory is None or not memory.limit("factors") else SharedFactors(memory, plan.digest)
            files = builder.merged(links, options.dtype, kept)
        release = open_blobs.pop_all().close
        return Artifact(plan, files, notices=builder.notices, truncation=builder.truncation, release=release)


def _check_options(options: Options, path: LoadedPath) -> None:
    """Refuse options that contradict each other."""
    if options.kind == "published" and options.dtype is not None:
        raise UsageError("--dtype can't be given with --as published: these are the bytes as they were published.")
    only_lora = {
        "--since": options.since,
        "--rank": options.rank,
        "--max-error": options.max_error,
        "--uniform": options.uniform or None,
    }
    given = next((name for name, value in only_lora.items() if value is not None), None)
    if options.kind != "lora" and given is not None:
        raise UsageError(f"{given} goes with --as lora, not with --as {options.kind}: it is about composed adapters.")
    if options.kind == "lora" and not path.links:
        raise UsageError(f"{path.reference} is a base model: it has no adapters to compose; fetch it --as merged.")
    check_options(options.rank, options.max_error)


def make_plan(path: LoadedPath, links: Sequence[Link], ancestor: LoadedPath | None, options: Options) -> Plan:
    """What will be computed, as far as it does not depend on values."""
    return Plan(
        kind=options.kind,
        base=path.base.digest,
        base_files=path.base.files_digest,
        table=path.base.table_digest,
        links=tuple(PlanLink(link.digest) for link in links),
        since=ancestor.links[-1].digest if ancestor and ancestor.links else None,
        dtype=options.dtype,
        uniform=options.uniform,
        base_repo=_below(path, ancestor).repo_id if options.kind == "lora" else None,
    )


def _below(path: LoadedPath, ancestor: LoadedPath | None) -> Path:
    """The path of the model that a composed adapter goes on: the base model, or what comes before its first link."""
    return Path.parse(ancestor.links[-1].path if ancestor and ancestor.links else path.base.name)


def _commit_below(path: LoadedPath, ancestor: LoadedPath | None) -> str:
    """The commit of that model in the Hub views: a revision that the repo has wherever the adapter is loaded from."""
    tip = ancestor.links[-1].digest if ancestor and ancestor.links else None
    return commit_below(_below(path, ancestor), path.base, tip)


class _Builder:
    def __init__(self, blobs: Blobs, path: LoadedPath, open_blobs: ExitStack) -> None:
        self._blobs = blobs
        self._path = path
        self._open_blobs = open_blobs
        self._table = target_table(blobs, path.base)
        self.notices: list[str] = []
        self.truncation: Truncation | None = None

    def published(self) -> list[ArtifactFile]:
        stored = self._path.links[-1].files if self._path.links else self._path.base.files
        files = []
        for file in stored:
            source = self._source(file.place)
            header = read_header(source, what=file.path, error=IntegrityError) if is_weights(file.path) else None
            files.append(source_file(file.path, source, header, file.place.digest))
        return files

    def lora(
        self, links: tuple[Link, ...], plan: Plan, ancestor: LoadedPath | None, options: Options
    ) -> tuple[list[ArtifactFile], Plan]:
        bound = self._bound(self._path.links)
        since = len(bound) - len(links)
        base = BaseTensors(base_tensors(self._blobs, self._path, self._open_blobs)[1])
        composition = Composition(bound, since, path_programs(bound, self._table), base, self._table)
        if options.rank is not None or options.max_error is not None:
            dtype = OPTION_DTYPES[options.dtype or "fp32"]
            self.truncation = composition.truncate(rank=options.rank, max_error=options.max_error, dtype=dtype)
            plan = replace(plan, ranks=composition.ranks)
        if options.uniform:
            composition.make_uniform()
        self.notices += composition.notices
        hints: dict[str, Any] = {}
        for link in bound[since:]:
            document = link.checkpoint.config.document
            hints.update({key: document[key] for key in ("task_type", "auto_mapping") if document.get(key) is not None})
        dtype = OPTION_DTYPES[plan.dtype or "fp32"]
        base_repo = BaseRepo(_below(self._path, ancestor).repo_id, _commit_below(self._path, ancestor))
        return composition.files(dtype=dtype, base_repo=base_repo, hints=hints), plan

    def merged(self, links: tuple[Link, ...], dtype: Dtype | None, kept: KeptFactors | None) -> list[ArtifactFile]:
        paths = path_programs(self._bound(links), self._table)
        headers, tensors = base_tensors(self._blobs, self._path, self._open_blobs)
        base = BaseTensors(tensors)
        changed = paths.by_tensor()
        new = _by_file(paths.new.values(), headers)
        out_dtype = OPTION_DTYPES[dtype] if dtype else None
        files = [
            self._stored(name, header)
            if out_dtype is None and name not in new and not changed.keys() & header.entries.keys()
            else merged_file(name, header, base, changed, new.get(name, ()), out_dtype, kept)
            for name, header in headers.items()
        ]
        by_name = {file.path: file.place for file in self._path.base.files if file.path not in headers}
        side = side_files.choose(by_name, [{file.path: file.place for file in link.files} for link in links])
        files += self._rewritten(side, files, headers, paths, out_dtype)
        self.notices += _merged_notices(paths)
        return files + [source_file(name, self._source(place), digest=place.digest) for name, place in side.items()]

    def _stored(self, name: str, header: Header) -> ArtifactFile:
        """A weight file of the base that nothing of the path changes."""
        place = next(file.place for file in self._path.base.files if file.path == name)
        return source_file(name, self._source(place), header, place.digest)

    def _rewritten(
        self,
        side: dict[str, BlobPlace],
        weights: list[ArtifactFile],
        headers: Mapping[str, Header],
        paths: PathPrograms,
        dtype: str | None,
    ) -> list[ArtifactFile]:
        """config.json and the index where the weights are of another dtype or more; takes them out of ``side``."""
        files = []
        recast = dtype is not None and changes_dtype(headers, dtype)
        labels = labels_of_new_head({name: one.shape for name, one in paths.new.items() if one.beside is None})
        if CONFIG in side and (recast or paths.untied or labels):
            config = json.loads(read_blob(self._blobs, side.pop(CONFIG)))
            config = config_with_dtype(config, dtype) if recast and dtype else config
            config = untied_config(config) if paths.untied else config
            config = labelled_config(config, labels) if labels else config
            files.append(generated_file(CONFIG, write_json(config)))
        if INDEX in side and (recast or paths.new):
            index = json.loads(read_blob(self._blobs, side.pop(INDEX)))
            out_headers: dict[str, Header] = {file.path: file.header for file in weights if file.header}
            files.append(generated_file(INDEX, write_json(index_of(index, out_headers))))
        return files

    def _bound(self, links: tuple[Link, ...]) -> list[BoundLink]:
        found = []
        for link in links:
            try:
                found.append(bind_link(self._blobs, link, self._path, self._open_blobs))
            except InvalidAdapterError as problem:
                # It was accepted when it was published, so a rule has become stricter, or a byte was changed.
                raise InvalidAdapterError(f"{link.reference} can't be used: {problem}", code=problem.code) from problem
        return found

    def _source(self, place: BlobPlace) -> ByteSource:
        reader = self._blobs.open_blob(place)
        self._open_blobs.callback(reader.close)
        return reader


def bind_link(blobs: Blobs, link: Link, path: LoadedPath, open_blobs: ExitStack) -> BoundLink:
    """A published revision's checkpoint with the open file that holds its tensors."""
    config = parse_config(read_blob(blobs, link.file(ADAPTER_CONFIG)))
    source = blobs.open_blob(link.file(ADAPTER_WEIGHTS))
    open_blobs.callback(source.close)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    return BoundLink(read_checkpoint(config, header.entries, target_table(blobs, path.base)), source)


def base_tensors(
    blobs: Blobs, path: LoadedPath, open_blobs: ExitStack
) -> tuple[dict[str, Header], dict[str, tuple[ByteSource, TensorEntry]]]:
    """Headers of the base's weight files, and every tensor with the open file that holds it."""
    by_name = {file.path: file.place for file in path.base.files}
    headers: dict[str, Header] = {}
    tensors: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for name in weight_files(read_document(blobs, path.base.index)):
        source = blobs.open_blob(by_name[name])
        open_blobs.callback(source.close)
        headers[name] = read_header(source, what=name, error=IntegrityError)
        tensors.update({tensor: (source, entry) for tensor, entry in headers[name].entries.items()})
    return headers, tensors


def _by_file(new: Iterable[NewTensor], headers: Mapping[str, Header]) -> dict[str, list[NewTensor]]:
    """The weight file that each new tensor goes into: that of the weight it was tied to, else the last."""
    found: dict[str, list[NewTensor]] = {}
    for tensor in new:
        file = next((name for name, header in headers.items() if tensor.beside in header.entries), max(headers))
        found.setdefault(file, []).append(tensor)
    return found


def _merged_notices(paths: PathPrograms) -> Iterator[str]:
    if paths.untied:
        yield (
            f"{' and '.join(map(repr, paths.untied))} share one weight in the base model and not after this path: both "
            "are in the files, and config.json says tie_word_embeddings false."
        )
    heads = [name for name, tensor in paths.new.items() if tensor.beside is None]
    if heads:
        yield (
            f"The files hold {', '.join(map(repr, heads))}, which the base model lacks: load them with the class that "
            "the adapter was trained with."
        )


def is_weights(path: str) -> bool:
    """Whether a file of an artifact holds tensors."""
    return path.endswith(".safetensors") and "/" not in path
