"""The manifest of a revision: the document whose digest is the revision's digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.digest import canonical_json, sha256_digest
from registry.services.publishing.parents import Parent
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig

MANIFEST_FORMAT: Final = 1

Files = Mapping[str, tuple[str, int]]
"""Digest and size by name."""


def manifest_of(parent: Parent, config: LoraAdapterConfig, files: Files) -> bytes:
    """The canonical text of a manifest."""
    return canonical_json(
        {
            "format": MANIFEST_FORMAT,
            "base": parent.base.digest,
            "parent": parent.revision_digest,
            "config": dict(config.document),
            "files": [{"path": path, "digest": digest, "size": size} for path, (digest, size) in sorted(files.items())],
        }
    )


def revision_digest(parent: Parent, config: LoraAdapterConfig, files: Files) -> str:
    """The digest of the revision that is made of them."""
    return sha256_digest(manifest_of(parent, config, files))
