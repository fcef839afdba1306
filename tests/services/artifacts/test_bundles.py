"""Paths for other registries: bundles, plans, tables of copied bases, and merging on the client's machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.digest import sha256_digest
from registry.errors import (
    IntegrityError,
    InvalidBaseError,
    NotFoundError,
)
from registry.files.hashed import hash_file
from registry.folders.receipts import read_receipt
from registry.progress import SILENT
from registry.schemas import Options
from registry.schemas.transfer import BaseCommit
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from registry.transfer.source import base_request
from tests.kit import Base
from tests.kit.sending import (
    WEIGHTS,
    adapter,
    another,
    upload,
)


def test_a_bundle_is_the_path_with_all_that_it_stands_on(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    local.publish(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    local.publish(adapter(tmp_path, base, "three", seed=3), "net/one")
    bundle = local.bundle("net/one/two")
    assert (bundle.reference, [link.reference for link in bundle.links]) == (
        "net/one/two@1",
        ["net/one@1", "net/one/two@1"],
    )
    assert [json.loads(link.manifest)["parent"] for link in bundle.links] == [None, bundle.links[0].digest]
    assert local.subtree("net") == ("net/one@1", "net/one@2", "net/one/two@1")
    for entry in (*bundle.base.files, bundle.base.index, bundle.base.table, *bundle.links[1].files):
        source = local.open_blob("net/one/two", entry)
        data = bytearray(source.size)
        source.read_into(0, memoryview(data))
        source.close()
        assert sha256_digest(data) == entry.digest
    with pytest.raises(NotFoundError):
        local.open_blob("net/one", next(entry for entry in bundle.links[1].files if entry.path == WEIGHTS))
    assert local.bundle("net").links == ()


def test_merging_elsewhere_gives_the_same_bytes(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    local.publish(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    bundle = local.bundle("net/one/two")
    opened: list[str] = []

    def open_blob(ref: str, entry: Any) -> Any:
        opened.append(entry.path)
        return local.open_blob(ref, entry)

    files = {"model.safetensors": hash_file(base.folder / "model.safetensors", SILENT)}
    options = Options(kind="merged", dtype="bf16")
    plan = local.artifact_plan("net/one/two", options)
    merged = LocalArithmetic().merge(bundle, open_blob, files, options)
    with local.artifact("net/one/two", kind="merged", dtype="bf16") as theirs:
        assert merged.rendering == theirs.rendering == plan.rendering
        assert {path: file.read() for path, file in merged.files.items()} == {
            path: file.read() for path, file in theirs.files.items()
        }
    receipt = merged.receipt((), "here")
    assert (receipt.plan_digest, receipt.reference) == (plan.plan_digest, "net/one/two@1")
    assert (receipt.plan, receipt.lineage, receipt.notices) == (plan.plan, plan.lineage, plan.notices)
    merged.close()
    assert "model.safetensors" not in opened
    with (base.folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(IntegrityError) as wrong:
        LocalArithmetic().merge(bundle, open_blob, files, options)
    assert wrong.value.code == "wrong_base"


def test_a_bundle_that_contradicts_itself_is_not_merged(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    local.publish(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    bundle = local.bundle("net/one/two")
    one, two = bundle.links
    swapped = one.model_copy(update={"files": two.files})
    for wrong in (
        bundle.model_copy(update={"links": (two,)}),
        bundle.model_copy(update={"links": (swapped, two)}),
        bundle.model_copy(update={"links": (two, one)}),
        bundle.model_copy(update={"base": bundle.base.model_copy(update={"files": bundle.base.files[:1]})}),
        bundle.model_copy(update={"base": bundle.base.model_copy(update={"index": bundle.base.table})}),
    ):
        with pytest.raises((IntegrityError, NotFoundError)):
            LocalArithmetic().merge(
                wrong,
                lambda _, entry: local.open_blob("net/one/two", entry),
                {"model.safetensors": hash_file(base.folder / "model.safetensors", SILENT)},
                Options(kind="merged"),
            )


def test_an_artifact_s_plan_is_what_a_fetch_writes(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    plan = local.artifact_plan("net/one", Options(kind="merged"))
    local.fetch("net/one", tmp_path / "out", kind="merged")
    receipt = read_receipt(tmp_path / "out")
    assert [(file.path, file.size) for file in plan.files] == [(file.path, file.size) for file in receipt.files]
    assert (plan.rendering, plan.lineage, plan.plan) == (receipt.rendering, receipt.lineage, receipt.plan)
    for entry in plan.files:
        data = (tmp_path / "out" / entry.path).read_bytes()
        assert entry.header == (data[: len(entry.header)] if entry.header else None)
        assert (entry.header is not None) == entry.path.endswith(".safetensors")
    assert len({entry.etag for entry in plan.files}) == len(plan.files)


def test_a_copied_base_keeps_its_table(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    table = json.loads(_read(local, "net", local.bundle("net").base.table))
    with another(tmp_path) as other:
        made = base_request("net", base.folder, SILENT)
        targets = {**table["targets"], "a": {**table["targets"]["a"], "shape": [1, 1]}}
        of_another_version = {**table, "format": 99}
        for wrong in (
            {**table, "targets": targets},
            {**table, "more": 1},
            {"format": table["format"]},
            of_another_version,
        ):
            with pytest.raises(InvalidBaseError):
                other.plan_base(made.request.model_copy(update={"table": wrong}))
        noted = {**table, "notices": ["made elsewhere"]}
        request = made.request.model_copy(update={"table": noted})
        uploads = upload(other, made.sources, other.plan_base(request).missing)
        added = other.commit_base(BaseCommit(request=request, uploads=uploads))
        assert added.base.notices[0] == "made elsewhere"  # and then what its table guesses
        assert "made elsewhere" not in added.base.notices[1:]
        assert added.base.digest == local.bases()[0].digest


def _read(registry: LocalRegistry, ref: str, entry: Any) -> bytes:
    source = registry.open_blob(ref, entry)
    try:
        data = bytearray(source.size)
        source.read_into(0, memoryview(data))
        return bytes(data)
    finally:
        source.close()
