"""What a client does with a registry, in process: a request, the bytes that are missing, a commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.catalogue.store import unreferenced
from registry.digest import sha256_digest
from registry.files.source import FileSource
from registry.operations.publication import Labels, Publication
from registry.operations.transfer import Transfer
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.schemas import BaseAdded, Published
from registry.schemas.transfer import BaseCommit, PublishCommit
from registry.services.local import LocalRegistry
from registry.transfer.publish_request import PublishFolder, read_adapter
from registry.transfer.source import BaseFolder, base_request
from tests.kit import Base, write_adapter

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}
WEIGHTS = "adapter_model.safetensors"


def request_of(folder: Path, path: str, **options: Any) -> PublishFolder:
    """The request for an adapter's folder."""
    said = {name: options.pop(name) for name in ("message", "metrics", "tags", "annotations") if name in options}
    publication = Publication(folder, TreePath.parse(path), Labels(**said), **options)
    return read_adapter(publication, SILENT).with_digests(SILENT)


def upload(registry: Transfer, sources: Mapping[str, Path], digests: tuple[str, ...]) -> dict[str, str]:
    """Upload what is missing; ids by digest."""
    uploads = {}
    for digest in digests:
        with FileSource(sources[digest]) as source:
            uploads[digest] = registry.upload(digest, source)
    return uploads


def prepare(registry: Transfer, made: PublishFolder) -> PublishCommit:
    """Plan and upload; what is left is the commit."""
    missing = registry.plan_publish(made.request).missing
    return PublishCommit(request=made.request, uploads=upload(registry, made.sources, missing))


def send(registry: Transfer, folder: Path, path: str, **options: Any) -> Published:
    """Publish an adapter as a client does."""
    return registry.commit_publish(prepare(registry, request_of(folder, path, **options)))


def send_base(registry: Transfer, name: str, folder: Path) -> BaseAdded:
    """Add a base model as a client does."""
    made: BaseFolder = base_request(name, folder, SILENT)
    missing = registry.plan_base(made.request).missing
    uploads = upload(registry, made.sources, missing)
    return registry.commit_base(BaseCommit(request=made.request, uploads=uploads))


def adapter(tmp_path: Path, base: Base, name: str, seed: int = 0, **options: Any) -> Path:
    return write_adapter(tmp_path / name, base, ["a", "b"], r=2, seed=seed, **options)


def weights_of(folder: Path) -> str:
    """Digest of an adapter's weights."""
    return sha256_digest((folder / WEIGHTS).read_bytes())


@contextmanager
def another(tmp_path: Path) -> Iterator[LocalRegistry]:
    """Another registry, in a folder."""
    opened = LocalRegistry.open(tmp_path / "other", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


def keys(registry: LocalRegistry) -> list[str]:
    """Keys of everything stored, block lists aside."""
    return [one.key for one in registry.deployment.blobs.objects() if one.key.startswith("blobs/")]


def rows(registry: LocalRegistry) -> dict[str, str]:
    """Key by digest, as the catalogue has them."""
    with registry.deployment.read() as session:
        return {row.digest: row.key for row in unreferenced.keys(session)}
