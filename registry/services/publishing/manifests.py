"""The manifest of a revision: the document whose digest is the revision's digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.digest import canonical_json, sha256_digest
from registry.schemas.artifacts import Extraction, FourBits
from registry.services.lineage import TRAINED
from registry.services.publishing.draft import Combination
from registry.services.publishing.parents import Parent
from registry.tensors.checkpoint.lora_config import LoraAdapterConfig

MANIFEST_FORMAT: Final = 1

Files = Mapping[str, tuple[str, int]]
"""Digest and size by name."""


def manifest_of(
    parent: Parent,
    config: LoraAdapterConfig,
    files: Files,
    combination: Combination | None = None,
    extracted: Extraction | None = None,
    trained_quantised: FourBits | None = None,
) -> bytes:
    """The canonical text of a manifest; only that of a ``combination`` says what it is made of.

    ``extracted`` is in those of adapters that were made of a full model, ``trained_quantised`` in those that are known
    to be trained on quantised weights.
    """
    return canonical_json(
        {
            "format": MANIFEST_FORMAT,
            "base": parent.base.digest,
            "parent": parent.revision_digest,
            "config": dict(config.document),
            "files": [{"path": path, "digest": digest, "size": size} for path, (digest, size) in sorted(files.items())],
            **({} if combination is None else combination.document()),
            **({} if extracted is None else {"extracted": extracted.model_dump(mode="json")}),
            **({} if trained_quantised is None else {TRAINED: trained_quantised.model_dump(mode="json")}),
        }
    )


def revision_digest(
    parent: Parent,
    config: LoraAdapterConfig,
    files: Files,
    combination: Combination | None = None,
    extracted: Extraction | None = None,
    trained_quantised: FourBits | None = None,
) -> str:
    """The digest of the revision that is made of them."""
    return sha256_digest(manifest_of(parent, config, files, combination, extracted, trained_quantised))
