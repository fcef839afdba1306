"""Publishing: every check first, then bytes, then one short transaction that makes the revision visible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from registry.catalogue import annotations as annotation_rows
from registry.catalogue import blobs as blob_rows
from registry.catalogue import browse, publishing, tags
from registry.catalogue.blobs import FileRef
from registry.catalogue.publishing import NewRevision
from registry.catalogue.texts import check_annotations, check_metrics, check_text
from registry.digest import canonical_json, sha256_digest
from registry.errors import InvalidAdapterError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Folder, adapter_folder
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, check_tag
from registry.schemas import Published, RevisionSummary, TargetGroup
from registry.services.deployment import Deployment, blob_row
from registry.services.lineage_check import check_lineage
from registry.services.parents import Parent, find_parent
from registry.services.paths import LoadedPath, load_path, target_table
from registry.storage.blobs import StagedBlob
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.lora_config import MAX_BYTES, LoraAdapterConfig, parse_config
from registry.tensors.checkpoint.reading import read_checkpoint
from registry.tensors.files.finite import FiniteWatch
from registry.tensors.files.header import Header, read_header
from registry.tensors.files.source import FileSource

MANIFEST_FORMAT: Final = 1


@dataclass(frozen=True)
class Labels:
    """What is said about a revision: not part of its digest, and free to change later."""

    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, message: str, metrics: Mapping[str, float], tags: Iterable[str], annotations: Mapping[str, str]
    ) -> Labels:
        """Labels that can be kept; raises `UsageError` naming what can't."""
        return cls(
            check_text("The message", message),
            check_metrics(metrics),
            tuple(check_tag(tag) for tag in tags),
            check_annotations(annotations),
        )


@dataclass(frozen=True)
class _Candidate:
    """An adapter that passed every check that needs no weights."""

    folder: Folder
    config: LoraAdapterConfig
    header: Header
    checkpoint: Checkpoint
    parent: Parent


def publish(
    deployment: Deployment,
    folder: Path,
    path: str,
    *,
    parent: str | None,
    receipt: Path | None,
    labels: Labels,
    progress: Progress,
) -> Published:
    """Publish an adapter; see `registry.services.protocol.Registry.publish`.

    Raises:
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.parents`.
        InvalidAdapterError: the adapter is not one that can be composed exactly; the code says which rule.
    """
    tree_path = TreePath.parse(path)
    candidate, lineage = _check(deployment, folder, tree_path, parent=parent, receipt=receipt)
    with ExitStack() as staging:
        staged = _stage(deployment, candidate, lineage, staging, progress)
        manifest = _manifest(candidate, staged)
        new = _new_revision(deployment, tree_path, candidate, staged, manifest, labels)
        existing = _existing(deployment, tree_path, new.digest)
        stored = [] if existing else deployment.blobs.commit(list(staged.values()))
    with deployment.database.write() as session:
        blob_rows.record(session, {blob.digest: blob_row(blob) for blob in stored}.values())
        row, created = publishing.publish(session, new, deployment.actor)
        for tag in labels.tags:
            tags.set_tag(session, row.id, tag, deployment.actor)
        annotation_rows.annotate(
            session, row.id, metrics=labels.metrics, annotations=labels.annotations, actor=deployment.actor
        )
        summary = browse.summary(session, row.id)
    return Published(
        revision=summary,
        created=created,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        left_out=candidate.folder.left_out,
        bytes_stored=sum(blob.stored for blob in stored),
        registry=deployment.url,
    )


def _check(
    deployment: Deployment, folder: Path, path: TreePath, *, parent: str | None, receipt: Path | None
) -> tuple[_Candidate, LoadedPath]:
    """Every check that reads no weights."""
    found = adapter_folder(folder)
    config = parse_config(_read_small(found, ADAPTER_CONFIG))
    above = find_parent(deployment, path, parent=parent, receipt=receipt, trained_on=config.base_model_name_or_path)
    lineage = load_path(deployment, Reference.parse(above.reference))
    with FileSource(_weights(found)) as source:
        header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
        checkpoint = read_checkpoint(config, header.entries, target_table(deployment, lineage.table))
    return _Candidate(found, config, header, checkpoint, above), lineage


def _weights(folder: Folder) -> Path:
    file = folder.find(ADAPTER_WEIGHTS)
    if file is None:
        raise AssertionError("an adapter folder has its weights")
    return file


def _read_small(folder: Folder, path: str) -> bytes:
    file = folder.find(path)
    if file is None:
        raise AssertionError("an adapter folder has its configuration")
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _stage(
    deployment: Deployment, candidate: _Candidate, lineage: LoadedPath, staging: ExitStack, progress: Progress
) -> dict[str, StagedBlob]:
    """Hash all files and check the weights' values, with nothing visible yet."""
    files = candidate.folder.files
    deployment.blobs.clear_litter()
    progress.begin("Publishing", sum(found.file.stat().st_size for found in files))
    finite = FiniteWatch(candidate.header.entries)
    with FileSource(_weights(candidate.folder)) as source:
        check_lineage(deployment, lineage, candidate.checkpoint, source)
    return {
        found.path: staging.enter_context(
            deployment.blobs.stage(
                found.file, watch=finite if found.path == ADAPTER_WEIGHTS else None, advance=progress.advance
            )
        )
        for found in files
    }


def _manifest(candidate: _Candidate, staged: Mapping[str, StagedBlob]) -> dict[str, Any]:
    """What a revision's digest is the digest of."""
    row = candidate.parent.row
    return {
        "format": MANIFEST_FORMAT,
        "base": candidate.parent.base.digest,
        "parent": row.digest if row else None,
        "config": dict(candidate.config.document),
        "files": [{"path": path, "digest": blob.digest, "size": blob.size} for path, blob in sorted(staged.items())],
    }


def _new_revision(
    deployment: Deployment,
    path: TreePath,
    candidate: _Candidate,
    staged: Mapping[str, StagedBlob],
    manifest: Mapping[str, Any],
    labels: Labels,
) -> NewRevision:
    text = canonical_json(manifest)
    trained_on = candidate.config.base_model_name_or_path
    return NewRevision(
        path=path,
        base_digest=candidate.parent.base.digest,
        parent_id=candidate.parent.row.id if candidate.parent.row else None,
        digest=sha256_digest(text),
        manifest=text.decode("utf-8"),
        message=labels.message,
        author=deployment.actor,
        rank=candidate.checkpoint.rank,
        parameters=candidate.checkpoint.parameters,
        size=sum(blob.size for blob in staged.values()),
        trained_on=trained_on,
        notices=(
            *candidate.checkpoint.notices,
            *beyond_pairs(candidate.checkpoint),
            *_quantised_notice(trained_on),
        ),
        files=tuple(FileRef(name, blob.digest) for name, blob in sorted(staged.items())),
        targets=target_groups(candidate.checkpoint),
    )


def beyond_pairs(checkpoint: Checkpoint) -> Iterator[str]:
    """What an adapter does besides adding pairs, for people."""
    if checkpoint.config.use_dora:
        yield "The adapter is a DoRA: it also rescales the weights of its target modules to magnitudes of its own."
    values = list(checkpoint.values)
    if values:
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        yield f"The adapter replaces {', '.join(values[:3])}{more} as a whole: what was there before is gone."
    for module, rows in checkpoint.tokens.items():
        yield f"The adapter replaces {len(rows.tokens)} token rows of {module}."


def _quantised_notice(trained_on: str | None) -> tuple[str, ...]:
    marks = ("bnb-4bit", "bnb-8bit", "-4bit", "-8bit", "-gptq", "-awq", "-int4", "-int8", "-fp8")
    if trained_on and trained_on.lower().rstrip("/").endswith(marks):
        notice = (
            f"The adapter was trained on {trained_on}, a quantised copy: on the unquantised base it is a slightly "
            "different function."
        )
        return (notice,)
    return ()


def target_groups(checkpoint: Checkpoint) -> tuple[TargetGroup, ...]:
    """The target modules by leaf name."""
    groups: dict[str, list[tuple[int, float]]] = {}
    for module, pair in checkpoint.pairs.items():
        groups.setdefault(module.rpartition(".")[2], []).append((pair.rank, pair.scaling))
    return tuple(
        TargetGroup(
            name=name,
            modules=len(pairs),
            ranks=tuple(sorted({rank for rank, _ in pairs})),
            scalings=tuple(sorted({scaling for _, scaling in pairs})),
        )
        for name, pairs in sorted(groups.items())
    )


def _existing(deployment: Deployment, path: TreePath, digest: str) -> RevisionSummary | None:
    """The adapter's revision of this digest."""
    with deployment.database.read() as session:
        return browse.with_digest(session, path, digest)
