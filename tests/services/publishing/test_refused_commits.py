"""What is left of a commit that is refused, whose fault it was, and what a store that loses bytes costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.catalogue.database.team_tables import UploadRecord
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from registry.progress import SILENT
from registry.schemas.transfer import BaseCommit, Origin, PublishCommit
from registry.services.local import LocalRegistry
from registry.storage.s3 import S3Driver
from registry.transfer.source import base_request
from tests.kit import Base, plain_base
from tests.kit.sending import SHAPES, WEIGHTS, adapter, prepare, request_of, send_base, upload
from tests.kit.servers import S3Place
from tests.kit.shim import Asked, Fault, Shim


def open_uploads(registry: LocalRegistry, uploads: dict[str, str]) -> int:
    def is_open(upload_id: str) -> bool:
        try:
            registry.get_upload(upload_id)
        except NotFoundError:
            return False
        return True

    return sum(map(is_open, uploads.values()))


def staged(registry: LocalRegistry) -> list[str]:
    with registry.deployment.read_everything() as session:
        return sorted(session.scalars(select(UploadRecord.staging_key)))


def not_finite(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    (folder / WEIGHTS).write_bytes(data)


def test_uploads_of_a_refused_commit_are_dropped(registry: LocalRegistry, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", base.folder)
    folder = adapter(tmp_path, base, "one")
    not_finite(folder)
    commit = prepare(registry, request_of(folder, "net/one"))
    assert open_uploads(registry, commit.uploads) == 2
    with pytest.raises(InvalidAdapterError):
        registry.commit_publish(commit)
    assert (open_uploads(registry, commit.uploads), staged(registry)) == (0, [])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"parent": "net/other@1"}, ConflictError),
        ({"message": "x" * 20_000}, UsageError),
        ({"header": b""}, InvalidAdapterError),
    ],
)
def test_whatever_it_was_refused_for(
    local: LocalRegistry, base: Base, tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    commit = prepare(local, request_of(adapter(tmp_path, base, "one"), "net/one"))
    other = commit.model_copy(update={"request": commit.request.model_copy(update=change)})
    with pytest.raises(error):
        local.commit_publish(other)
    assert (open_uploads(local, commit.uploads), staged(local)) == (0, [])


def test_the_same_of_a_base_model(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    made = base_request("net", plain_base(tmp_path / "other", SHAPES, seed=9).folder, SILENT)
    sent = upload(local, made.sources, local.plan_base(made.request).missing)
    assert open_uploads(local, sent) > 0
    with pytest.raises(ConflictError):
        local.commit_base(BaseCommit(request=made.request, uploads=sent))
    assert (open_uploads(local, sent), staged(local)) == (0, [])


def test_uploads_of_a_commit_that_may_be_given_again_stay(
    local: LocalRegistry, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = prepare(local, request_of(adapter(tmp_path, base, "one"), "net/one"))
    some = dict(list(commit.uploads.items())[:1])
    with pytest.raises(NotFoundError, match="upload them, and commit again"):
        local.commit_publish(commit.model_copy(update={"uploads": some}))
    assert open_uploads(local, commit.uploads) == 2
    assert local.commit_publish(commit).created
    assert staged(local) == []


# ------------------------------------------------------------------ what a client says of its copy


@pytest.fixture
def origin(local: LocalRegistry, base: Base, tmp_path: Path) -> Callable[..., PublishCommit]:
    def made(digest: str) -> PublishCommit:
        said = Origin(registry="far", reference="net/one@1", author="ada", created_at=datetime.now(UTC), digest=digest)
        request = request_of(adapter(tmp_path, base, "one"), "net/one")
        return prepare(local, replace(request, request=request.request.model_copy(update={"origin": said})))

    return made


def test_a_wrong_digest_of_the_origin_is_the_clients_mistake(origin: Callable[..., PublishCommit]) -> None:
    with pytest.raises(IntegrityError, match="nothing was published") as refused:
        origin("sha256:" + "0" * 64)
    assert refused.value.code == "copy_mismatch"


@pytest.mark.parametrize("said", [0, 99, "x", None, [], {"a": 1}])
def test_a_table_of_another_format_is_the_clients_mistake(local: LocalRegistry, tmp_path: Path, said: object) -> None:
    request = base_request("other", plain_base(tmp_path / "base", SHAPES).folder, SILENT).request
    with pytest.raises(InvalidBaseError, match="its format is") as refused:
        local.plan_base(request.model_copy(update={"table": {"format": said}}))
    assert refused.value.code == "bad_declaration"


# ------------------------------------------------------------------ a store that loses what it acknowledged


@pytest.fixture
def shim(s3_store: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    for name, value in s3_store.environ.items():
        monkeypatch.setenv(name, value)
    with Shim(s3_store.endpoint) as shim:
        monkeypatch.setenv("AWS_ENDPOINT_URL", shim.url)
        yield shim


@pytest.fixture
def team(shim: Shim, s3_store: S3Place, postgres_migrated_url: str) -> Iterator[LocalRegistry]:
    """A registry whose store can lose things."""
    registry = LocalRegistry.of(postgres_migrated_url, S3Driver(s3_store.url, proxy_blobs=True))
    yield registry
    registry.close()


def lost(asked: Asked) -> tuple[int, bytes]:
    copied = b"<CopyObjectResult><ETag>&quot;1&quot;</ETag></CopyObjectResult>"
    return 200, copied if "x-amz-copy-source" in asked.headers else b""


@pytest.mark.parametrize(
    ("target", "code"), [("/staging/", "upload_incomplete"), ("/blobs/", "unavailable")], ids=["PUT", "copy"]
)
def test_what_was_acknowledged_and_lost_is_the_stores_fault(
    team: LocalRegistry, shim: Shim, tmp_path: Path, target: str, code: str
) -> None:
    base = plain_base(tmp_path / "base", SHAPES)
    send_base(team, "net", base.folder)
    made = request_of(adapter(tmp_path, base, "one"), "net/one")
    fault = Fault(method="PUT", target=target, times=1, answer=lost, headers={"ETag": '"1"'})
    shim.faults = [fault]
    commit = prepare(team, made)
    with pytest.raises(UnavailableError) as caught:
        team.commit_publish(commit)
    assert caught.value.code == code
    assert fault.times == 0
    assert "blobs/" not in str(caught.value)
    assert "staging/" not in str(caught.value)
    assert team.search().revisions == ()
    again = prepare(team, made)  # what is there does not travel again
    assert again.uploads == commit.uploads
    assert team.commit_publish(again).created


@pytest.mark.slow
def test_an_upload_that_the_store_dropped_is_begun_again(team: LocalRegistry, tmp_path: Path) -> None:
    """A rule of the bucket may remove what lies in it for long, also where the catalogue knows it."""
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (3000, 1500)})
    made = base_request("net", base.folder, SILENT)
    missing = team.plan_base(made.request).missing
    sent = upload(team, made.sources, missing)
    bucket = team.deployment.blobs._driver._bucket  # type: ignore[attr-defined]
    for key, unfinished, _ in list(bucket.uploads("")):
        bucket.abort(key, unfinished)
    with pytest.raises(UnavailableError) as caught:
        team.commit_base(BaseCommit(request=made.request, uploads=sent))
    assert caught.value.code == "upload_incomplete"
    again = upload(team, made.sources, missing)
    assert again != sent
    assert team.commit_base(BaseCommit(request=made.request, uploads=again)).created


def test_a_copy_sends_again_what_the_store_of_the_target_lost(
    team: LocalRegistry, local: LocalRegistry, base: Base, shim: Shim, tmp_path: Path
) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    faults = [Fault(method="PUT", target="/staging/", times=2, answer=lost, headers={"ETag": '"1"'})]
    shim.faults = faults
    assert [one.created for one in local.copy("net/one", team).revisions] == [True]
    assert faults[0].times == 0
    assert team.log("net/one").revisions[0].digest == local.log("net/one").revisions[0].digest
