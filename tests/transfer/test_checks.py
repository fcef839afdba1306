"""What is sent is checked: names, claims and headers before any byte travels, the bytes when they are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.digest import sha256_digest
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UsageError,
)
from registry.progress import SILENT
from registry.schemas import Options
from registry.schemas.transfer import FileClaim, PublishCommit, PublishRequest
from registry.services.local import LocalRegistry
from registry.transfer.source import base_request
from tests.kit import Base, plain_base
from tests.kit.sending import (
    SHAPES,
    WEIGHTS,
    adapter,
    keys,
    prepare,
    request_of,
    send,
    upload,
)


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"header": b"\x10\x00\x00\x00\x00\x00\x00\x00{}"}, InvalidAdapterError, "bad_safetensors"),
        ({"header": b""}, InvalidAdapterError, "bad_safetensors"),
        ({"config": b"{}"}, UsageError, "usage"),
        ({"path": "net"}, UsageError, "usage"),
        ({"path": "nothing/one"}, NotFoundError, "not_found"),
        ({"parent": "net/other@1"}, ConflictError, "parent_mismatch"),
        ({"tags": ("main",)}, UsageError, "bad_name"),
        ({"metrics": {"acc": float("inf")}}, UsageError, "usage"),
        ({"message": "x" * 20_000}, UsageError, "usage"),
    ],
)
def test_a_request_is_refused_before_bytes_travel(
    local: LocalRegistry, base: Base, tmp_path: Path, change: dict[str, Any], error: type[RegistryError], code: str
) -> None:
    made = request_of(adapter(tmp_path, base, "one"), "net/one").request
    given = made.model_dump() | change
    for answer in (
        local.plan_publish,
        lambda request: local.commit_publish(PublishCommit(request=request, uploads={})),
    ):
        with pytest.raises(error) as refused:
            answer(PublishRequest.model_validate(given))
        assert refused.value.code == code
    assert local.search().revisions == ()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../x", "path_traversal"),
        ("/etc/passwd", "path_traversal"),
        ("a//b", "path_traversal"),
        ("a\\b", "bad_config"),
        ("x\n", "bad_config"),
        ("optimizer.pt", "bad_config"),
        ("model.pkl", "pickle"),
        (".git/config", "bad_config"),
        ("registry-receipt.json", "bad_config"),
    ],
)
def test_names_that_no_folder_could_have_brought_are_refused(
    local: LocalRegistry, base: Base, tmp_path: Path, path: str, code: str
) -> None:
    made = request_of(adapter(tmp_path, base, "one"), "net/one").request
    claim = FileClaim(path=path, size=1, digest="sha256:" + "0" * 64)
    with pytest.raises(InvalidAdapterError) as refused:
        local.plan_publish(made.model_copy(update={"files": (*made.files, claim)}))
    assert refused.value.code == code


def test_claims_that_contradict_each_other_are_refused(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    made = request_of(adapter(tmp_path, base, "one"), "net/one").request
    weights = next(claim for claim in made.files if claim.path == WEIGHTS)
    for claim in (
        weights,
        FileClaim(path="x", size=1, digest="sha256:00"),
        FileClaim(path="x", size=weights.size + 1, digest=weights.digest),
    ):
        with pytest.raises(UsageError):
            local.plan_publish(made.model_copy(update={"files": (*made.files, claim)}))
    other = made.config.replace(b'"r": 2', b'"r": 1')  # as long, and not what the digest names
    assert other != made.config
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        local.plan_publish(made.model_copy(update={"config": other}))
    with pytest.raises(InvalidAdapterError) as missing:
        local.plan_publish(made.model_copy(update={"files": made.files[:1]}))
    assert missing.value.code == "missing_file"


def test_bytes_that_are_not_those_announced(registry: LocalRegistry, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    request = request_of(adapter(tmp_path, made, "one"), "net/one")
    weights = next(claim for claim in request.request.files if claim.path == WEIGHTS)
    data = bytearray(request.sources[weights.digest].read_bytes())
    data[-1] ^= 1
    (tmp_path / "wrong").write_bytes(data)
    missing = registry.plan_publish(request.request).missing
    wrong = upload(registry, {**request.sources, weights.digest: tmp_path / "wrong"}, missing)
    before = keys(registry)
    with pytest.raises(IntegrityError) as refused:
        registry.commit_publish(PublishCommit(request=request.request, uploads=wrong))
    assert refused.value.code == "upload_mismatch"
    assert registry.search().revisions == ()
    assert keys(registry) == before
    with pytest.raises(NotFoundError):
        registry.get_upload(wrong[weights.digest])
    assert registry.commit_publish(prepare(registry, request)).created


def test_a_header_that_is_not_the_file_s(local: LocalRegistry, tmp_path: Path) -> None:
    """What was checked has to be what is stored: also where the bytes are there already."""
    made = plain_base(tmp_path / "square", {"a.weight": (16, 16), "b.weight": (16, 16)})
    local.add_base("square", made.folder)
    request = request_of(adapter(tmp_path, made, "one"), "square/one")
    swapped = request.request.header.replace(b".a.", b".?.").replace(b".b.", b".a.").replace(b".?.", b".b.")
    assert swapped != request.request.header
    lie = replace(request, request=request.request.model_copy(update={"header": swapped}))
    with pytest.raises(InvalidAdapterError) as uploaded:
        local.commit_publish(prepare(local, lie))
    assert uploaded.value.code == "bad_safetensors"
    assert local.commit_publish(prepare(local, request)).created
    other = lie.request.model_copy(update={"path": "square/other"})
    assert local.plan_publish(other).missing == ()
    with pytest.raises(InvalidAdapterError) as stored:
        local.commit_publish(PublishCommit(request=other, uploads={}))
    assert stored.value.code == "bad_safetensors"
    assert [one.path for one in local.search().revisions] == ["square/one"]


def test_numbers_that_are_none_are_refused_also_where_the_bytes_are_there(
    local: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    folder = adapter(tmp_path, base, "one")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InvalidAdapterError) as refused:
        send(local, folder, "net/one")
    assert refused.value.code == "non_finite"
    hidden = adapter(tmp_path, base, "hidden", seed=3)
    (hidden / "notes.txt").write_bytes(data)  # stored as a file that nobody takes for weights
    local.publish(hidden, "net/hidden")
    request = request_of(folder, "net/one")
    wanted = local.plan_publish(request.request).missing
    assert sha256_digest(data) not in wanted
    with pytest.raises(InvalidAdapterError) as again:
        local.commit_publish(prepare(local, request))
    assert again.value.code == "non_finite"


def test_nothing_is_published_on_what_is_retracted(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    local.publish(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    local.retract("net/one", reason="leaked data")
    three = adapter(tmp_path, base, "three", seed=3)
    for work in (
        lambda: local.publish(three, "net/one/three"),
        lambda: send(local, three, "net/one/two/three"),
        lambda: local.bundle("net/one/two"),
        lambda: local.artifact("net/one/two"),
        lambda: local.artifact_plan("net/one", Options()),
    ):
        with pytest.raises(RetractedError, match="leaked data"):
            work()
    local.retract("net/one", undo=True)
    assert send(local, three, "net/one/two/three").created


def test_a_base_is_checked_before_bytes_travel(local: LocalRegistry, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base", SHAPES, shards=2)
    request = base_request("net", made.folder, SILENT).request
    given = request.model_dump()
    cut = {path: data[:20] for path, data in request.headers.items()}
    lied = dict.fromkeys(request.documents, b"{}")
    for change, error, code in (
        ({"headers": cut}, InvalidBaseError, "bad_safetensors"),
        ({"headers": {}}, InvalidBaseError, "bad_safetensors"),
        ({"documents": {}}, InvalidBaseError, "missing_file"),
        ({"documents": lied}, UsageError, "usage"),
        ({"name": "a/b"}, UsageError, "bad_name"),
        ({"files": []}, RegistryError, None),
    ):
        with pytest.raises(error) as refused:
            local.plan_base(type(request).model_validate({**given, **change}))
        assert code is None or refused.value.code == code
    assert local.bases() == ()


@pytest.mark.parametrize("names", [("x", "x/y"), ("Notes.md", "notes.md"), ("con",)])
def test_names_that_were_published_before_they_were_refused_stay_readable(
    local: LocalRegistry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    made = request_of(adapter(tmp_path, base, "one"), "net/one")
    note = tmp_path / "note"
    note.write_text("note")
    digest = sha256_digest(b"note")
    claims = tuple(FileClaim(path=name, size=4, digest=digest) for name in names)
    request = made.request.model_copy(update={"files": (*made.request.files, *claims)})
    with pytest.raises(InvalidAdapterError) as refused:
        local.plan_publish(request)
    assert refused.value.code == "bad_config"
    with monkeypatch.context() as older:
        older.setattr("registry.transfer.publish_request.check_together", lambda *_: None)
        older.setattr("registry.transfer.publish_request.check_name", lambda *_: None)
        uploads = upload(local, {**made.sources, digest: note}, local.plan_publish(request).missing)
        local.commit_publish(PublishCommit(request=request, uploads=uploads))
    assert {file.path for file in local.show("net/one").files} >= set(names)
    with local.artifact("net/one", kind="published") as artifact:
        assert all(artifact.file(name).read() == b"note" for name in names)
    assert local.fetch("net/one", tmp_path / "out", kind="lora").fresh
