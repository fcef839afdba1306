"""An adapter that is to be published, before it is checked, and the manifest that its revision will have.

The manifest is the document whose digest is the revision's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.digest import canonical_json, sha256_digest
from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource
from registry.folders.hub.repository import check_source
from registry.folders.scan import ADAPTER, Form
from registry.operations.publication import Labels
from registry.reference import Path as TreePath
from registry.schemas import DerivedFrom, FolderCompared, LeftOut
from registry.schemas.artifacts import Extraction, FourBits
from registry.schemas.tags import NoticeCode
from registry.schemas.transfer import GivenReceipt, Origin, PublishRequest, SourceClaim, Truncated
from registry.schemas.usage import NOTHING, Loads
from registry.services.publishing.parents import Parent
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.lineage.paths import TRAINED
from registry.transfer.publish_request import Head, check_derivation


@dataclass(frozen=True)
class Said:
    """Evidence of the parent from the publisher, and from the folder that the adapter was trained on."""

    parent: str | None = None
    receipt: GivenReceipt | None = None
    skip_check: bool = False
    nested: bool = False
    compared: FolderCompared | None = None
    find: bool = False  # the parent has to be found: it is proven, or refused
    cached: str | None = None  # the only commit of what it was trained on in the publisher's cache of the Hub
    loaded: Loads = NOTHING  # of the revisions above, from this service


@dataclass(frozen=True)
class PinnedSource:
    """A revision that a combination is made of, and its weight."""

    key: int  # of its row
    reference: str
    digest: str
    weight: float


@dataclass(frozen=True)
class Combination:
    """What a combination is made of: part of its manifest."""

    sources: tuple[PinnedSource, ...]
    rank: int | None = None  # what it was truncated to
    max_error: float | None = None

    def document(self) -> dict[str, Any]:
        """The keys of the manifest, which no other revision has."""
        sources = [{"digest": one.digest, "weight": one.weight} for one in self.sources]
        options = {"rank": self.rank, "max_error": self.max_error}
        given = {name: value for name, value in options.items() if value is not None}
        return {"sources": sources, **({"truncated": given} if given else {})}

    @staticmethod
    def options_in(manifest: str) -> tuple[int | None, float | None]:
        """The rank and the error that a combination was truncated to, by its manifest."""
        given = json.loads(manifest).get("truncated", {})
        return given.get("rank"), given.get("max_error")


@dataclass(frozen=True)
class Draft:
    """An adapter to publish; only the header of its weights is read here."""

    path: TreePath
    said: Said
    labels: Labels
    config: bytes
    weights: ByteSource
    left_out: tuple[LeftOut, ...] = ()
    origin: Origin | None = None
    source: str | None = None  # the Hub repository that it was taken from
    derived_from: DerivedFrom | None = None  # by the receipt in its folder
    quantised: str | None = None  # the evidence in its folder that it was trained on quantised weights
    trained_quantised: FourBits | None = None  # how they were, as far as that is known
    strict: tuple[NoticeCode, ...] = ()  # notices that refuse it
    extracted: Extraction | None = None  # how it was made of a full model
    rebased: bool = False  # the files of a published revision, put on another parent
    combination: Combination | None = None  # of a weighted sum that is made here
    claimed: tuple[SourceClaim, ...] = ()  # of a copied combination: what it is made of, by references
    truncated: Truncated | None = None  # the same: what it was truncated to
    form: Form = ADAPTER  # which files ``config`` and ``weights`` are
    after: int | None = None  # number of the newest revision that it has to follow, 0: of none

    @classmethod
    def of_request(cls, request: PublishRequest, form: Form, size: int) -> Draft:
        """What a request describes, whose weights have a ``size``; raises `UsageError` for labels that can't be."""
        said = Said(
            request.parent,
            request.receipt,
            request.skip_parent_check,
            request.nested,
            request.compared,
            request.find_parent,
            cached=request.cached,
        )
        return cls(
            TreePath.parse(request.path),
            said,
            Labels.checked(request.message, request.metrics, request.tags, request.annotations),
            request.config,
            Head(form.weights, request.header, size, InvalidAdapterError),
            request.left_out,
            request.origin,
            check_source(request.source),
            check_derivation(request.derived_from),
            request.quantised,
            request.trained_quantised,
            request.strict,
            request.extracted,
            claimed=request.sources,
            truncated=request.truncated,
            form=form,
        )


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
    """The canonical text of a manifest; only that of a ``combination`` names its sources.

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
