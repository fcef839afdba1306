"""Writes base models and revisions into a catalogue, with bytes that are only names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.changes import new_base, tagging
from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes.details import annotate
from registry.catalogue.store import blobs
from registry.catalogue.tree.revisions import RevisionRow
from registry.digest import BlobRef, canonical_json, sha256_digest
from registry.reference import Path as TreePath
from registry.rights import UNLIMITED, Principal, Rights, Role
from registry.schemas import TargetGroup

ON_SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
TESTER = Principal("tester", UNLIMITED)
BOB = Principal("bob", UNLIMITED, token="tok_bob", source="192.0.2.7")


def rights(role: Role, *scopes: str) -> Rights:
    return Rights(role, tuple(map(TreePath.parse, scopes)))


def digest_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def blob(content: str, place: str = "") -> BlobRef:
    """The row of bytes that are only a name; ``place`` is a part of the key."""
    digest = digest_of(content)
    return BlobRef(digest, len(content), digest_of(content + " blocks"), f"blobs/{digest}{place}")


class Writer:
    """Adds what a service would add, with bytes that are only names."""

    def base(self, session: Session, name: str, weights: str = "w") -> None:
        names = [f"{name} {weights} model.safetensors", f"{name} config.json", f"{name} index", f"{name} table"]
        blobs.record(session, map(blob, names))
        new_base.add(session, self.new_base(name, weights), TESTER)

    def new_base(self, name: str, weights: str = "w") -> new_base.NewBase:
        return new_base.NewBase(
            name=name,
            digest=digest_of(weights),
            table_digest=digest_of("table"),
            files_digest=digest_of(f"{name} files"),
            architecture="LlamaForCausalLM",
            table_source="tensor names",
            parameters=1000,
            tensors=3,
            size=2048,
            index_blob=digest_of(f"{name} index"),
            table_blob=digest_of(f"{name} table"),
            notices=("a notice",),
            files=(
                blobs.FileRef("model.safetensors", digest_of(f"{name} {weights} model.safetensors")),
                blobs.FileRef("config.json", digest_of(f"{name} config.json")),
            ),
        )

    def new(self, path: str, content: str, parent_id: int | None, **other: Any) -> publishing.NewRevision:
        manifest = canonical_json({"path": path, "content": content, "parent": parent_id}).decode()
        fields: dict[str, Any] = {
            "path": TreePath.parse(path),
            "base_digest": digest_of("w"),
            "parent_id": parent_id,
            "digest": sha256_digest(manifest.encode()),
            "manifest": manifest,
            "message": f"message of {content}",
            "author": "ann",
            "rank": 8,
            "parameters": 100,
            "size": 400,
            "trained_on": None,
            "notices": (),
            "files": (blobs.FileRef("adapter_model.safetensors", digest_of(content)),),
            "targets": (TargetGroup(name="q_proj", modules=2, ranks=(8,), scalings=(2.0,)),),
        }
        return publishing.NewRevision(**(fields | other))

    def publish(
        self,
        session: Session,
        path: str,
        content: str,
        parent: RevisionRow | None = None,
        *,
        tag: str | None = None,
        metrics: Mapping[str, float] = {},
        notes: Mapping[str, str] = {},
        principal: Principal = TESTER,
        **other: Any,
    ) -> RevisionRow:
        blobs.record(session, [blob(content)])
        new = self.new(path, content, None if parent is None else parent.id, **other)
        row, _ = publishing.publish(session, new, principal)
        if tag is not None:
            tagging.set_tag(session, row.id, tag, principal)
        annotate(session, row.id, metrics=metrics, annotations=notes, principal=principal)
        return row
