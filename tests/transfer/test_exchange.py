"""What registries say to each other: requests, uploads, commits, and what a token may do with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import UploadRecord
from registry.catalogue.store import blobs as blob_rows
from registry.digest import sha256_digest
from registry.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    UsageError,
)
from registry.operations.methods import calls
from registry.progress import SILENT
from registry.schemas.transfer import BaseCommit, Origin, PublishCommit, Upload, UploadRequest
from registry.services.intake import uploads
from registry.services.local import LocalRegistry
from registry.transfer.source import base_request
from tests.kit import Base, add_tokenizer, plain_base
from tests.kit.acting import acting
from tests.kit.sending import (
    SHAPES,
    adapter,
    another,
    keys,
    prepare,
    request_of,
    rows,
    send,
    send_base,
    upload,
    weights_of,
)


@pytest.mark.slow_on("team")
def test_what_is_sent_is_what_is_published_from_a_folder(registry: LocalRegistry, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base", SHAPES, shards=2)
    add_tokenizer(made.folder)
    added = send_base(registry, "net", made.folder)
    one, two = adapter(tmp_path, made, "one"), adapter(tmp_path, made, "two", seed=2)
    (two / "README.md").write_text("# two")
    (two / "optimizer.pt").write_bytes(b"\x80\x04")
    registry.publish(one, "net/one")
    sent = send(registry, two, "net/one/two", message="hello", metrics={"acc": 0.5}, tags=["prod"])
    assert sent.created
    assert (sent.revision.reference, sent.revision.parent) == ("net/one/two@1", "net/one@1")
    assert sent.parent_reason == "the only revision of net/one"
    assert [left.path for left in sent.left_out] == ["optimizer.pt"]
    assert (sent.revision.message, sent.revision.metrics, sent.revision.tags) == ("hello", {"acc": 0.5}, ("prod",))
    with another(tmp_path) as other:
        assert other.add_base("net", made.folder).base.digest == added.base.digest
        assert other.bases()[0].table_digest == added.base.table_digest
        other.publish(one, "net/one")
        published = other.publish(two, "net/one/two")
        assert published.revision.digest == sent.revision.digest
        assert published.revision.notices == sent.revision.notices
        for kind in ("lora", "merged", "published"):
            with (
                other.artifact("net/one/two", kind=kind) as theirs,
                registry.artifact("net/one/two", kind=kind) as ours,
            ):
                assert ours.rendering == theirs.rendering
                for path, file in ours.files.items():
                    assert file.read() == theirs.file(path).read()
    assert sorted(rows(registry).values()) == sorted(keys(registry))


def test_sending_again_changes_labels_only(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = adapter(tmp_path, base, "one")
    first = send(local, folder, "net/one", metrics={"acc": 0.5})
    made = request_of(folder, "net/one", metrics={"acc": 0.75}, tags=["prod"])
    assert local.plan_publish(made.request).missing == ()
    again = local.commit_publish(PublishCommit(request=made.request, uploads={}))
    assert (again.created, again.bytes_stored) == (False, 0)
    assert again.revision.reference == first.revision.reference
    assert (again.revision.metrics, again.revision.tags) == ({"acc": 0.75}, ("prod",))


def test_a_base_that_is_there_needs_no_bytes(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    made = base_request("net", base.folder, SILENT)
    plan = local.plan_base(made.request)
    assert plan.missing == ()
    assert plan.existing is not None
    assert not local.commit_base(BaseCommit(request=made.request, uploads={})).created
    other = plain_base(tmp_path / "other", SHAPES, seed=1)
    with pytest.raises(ConflictError) as taken:
        send_base(local, "net", other.folder)
    assert taken.value.code == "other_weights"
    another = plain_base(tmp_path / "another", {"a.weight": (24, 16)})
    with pytest.raises(ConflictError):  # shapes show it before any byte travels
        local.plan_base(base_request("net", another.folder, SILENT).request)
    resharded = plain_base(tmp_path / "resharded", SHAPES, shards=2)
    again = send_base(local, "net", resharded.folder)
    assert not again.created
    assert again.base.digest == plan.existing.digest


def test_a_digest_alone_claims_no_bytes(registry: LocalRegistry, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    folder = adapter(tmp_path, made, "one")
    registry.publish(folder, "net/secret")
    stored = rows(registry)
    stranger = acting(registry, "writer", "net/mine")
    request = request_of(folder, "net/mine/one")
    registry.publish(adapter(tmp_path, made, "mine", seed=5), "net/mine")
    wanted = stranger.plan_publish(request.request).missing
    assert weights_of(folder) in wanted
    with pytest.raises(NotFoundError, match="upload"):
        stranger.commit_publish(PublishCommit(request=request.request, uploads={}))
    assert set(registry.plan_publish(request.request).missing) == set()
    sent = stranger.commit_publish(prepare(stranger, request))
    assert sent.created
    assert {digest: key for digest, key in rows(registry).items() if digest in stored} == stored
    assert sorted(rows(registry).values()) == sorted(keys(registry))  # the copy was dropped


def test_an_upload_goes_on_where_it_broke(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 5 << 20)
    data = bytes(range(256)) * (48 << 10)  # 12 MiB
    digest = sha256_digest(data)
    begun = registry.begin_upload(UploadRequest(digest=digest, size=len(data)))
    assert (begun.parts, begun.there, begun.part_size) == (3, (), 5 << 20)
    registry.put_part(begun.id, 2, [data[5 << 20 : 10 << 20]])
    with pytest.raises(UsageError):
        registry.put_part(begun.id, 1, [data[:100]])
    with pytest.raises(UsageError):
        registry.put_part(begun.id, 4, [b""])
    again = registry.begin_upload(UploadRequest(digest=digest, size=len(data)))
    assert (again.id, again.there) == (begun.id, (2,))
    assert not again.urls or sorted(again.urls) == [1, 3]
    file = tmp_path / "data"
    file.write_bytes(data)
    assert upload(registry, {digest: file}, (digest,)) == {digest: begun.id}
    assert registry.get_upload(begun.id).there == (1, 2, 3)
    registry.drop_upload(begun.id)
    with pytest.raises(NotFoundError):
        registry.get_upload(begun.id)


def test_an_upload_that_goes_on_is_kept(registry: LocalRegistry) -> None:
    """With a store, parts come without the service seeing them: who asks for addresses shows that it goes on."""
    asked = UploadRequest(digest=sha256_digest(b"data"), size=4)
    begun = registry.begin_upload(asked)

    def nearly_over(session: Session) -> None:
        session.execute(update(UploadRecord).values(expires_at=datetime.now(UTC) + timedelta(minutes=5)))

    ways: list[Callable[[], Upload]] = [
        lambda: registry.begin_upload(asked),
        lambda: registry.get_upload(begun.id),
    ]
    for go_on in ways:
        registry.deployment.change(nearly_over)
        assert go_on().id == begun.id
        with registry.deployment.read() as session:
            assert session.scalars(select(UploadRecord.expires_at)).one() > datetime.now(UTC) + timedelta(hours=12)


def test_parts_grow_with_the_size() -> None:
    assert uploads.part_size(0) == uploads.part_size(100 << 30) == 16 << 20
    for size in (200 << 30, 5 << 40):
        part = uploads.part_size(size)
        assert part % (1 << 20) == 0
        assert -(-size // part) <= 10_000


def test_uploads_are_their_owner_s(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    first, second = acting(local, "writer", token="tok_1"), acting(local, "writer", token="tok_2")
    request = request_of(adapter(tmp_path, base, "one"), "net/one")
    commit = prepare(first, request)
    one = next(iter(commit.uploads.values()))
    for work in (
        lambda: second.get_upload(one),
        lambda: second.put_part(one, 1, [b""]),
        lambda: second.drop_upload(one),
        lambda: second.commit_publish(commit),
    ):
        with pytest.raises(NotFoundError):
            work()
    digest = next(iter(commit.uploads))
    assert (
        second.begin_upload(UploadRequest(digest=digest, size=first.get_upload(one).size)).id != commit.uploads[digest]
    )
    assert first.commit_publish(commit).created


def test_what_a_token_may_do(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    request = request_of(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    reader, elsewhere = acting(local, "reader"), acting(local, "writer", "net/two")
    works: tuple[Callable[[LocalRegistry], object], ...] = (
        lambda who: who.plan_publish(request.request),
        lambda who: who.commit_publish(PublishCommit(request=request.request, uploads={})),
        lambda who: who.publish(tmp_path / "two", "net/one/two"),
        lambda who: who.plan_base(base_request("net", base.folder, SILENT).request),
        lambda who: who.add_base("other", base.folder),
        lambda who: who.tag("net/one", "prod"),
        lambda who: who.untag("net/one", "prod"),
        lambda who: who.annotate("net/one", metrics={"acc": 1.0}),
        lambda who: who.create_token("reader"),
        lambda who: who.tokens(),
        lambda who: who.revoke_token("tok_1"),
    )
    for who in (reader, elsewhere):
        for work in works:
            with pytest.raises(NotAllowedError) as refused:
                work(who)
            assert refused.value.code == "not_allowed"
    with pytest.raises(NotAllowedError):
        reader.begin_upload(UploadRequest(digest="sha256:" + "0" * 64, size=1))
    with pytest.raises(NotFoundError):
        elsewhere.bundle("net/one")
    assert reader.bundle("net/one").links[0].summary is not None


def test_the_parent_above_a_scope_is_pinned_by_proof_and_no_more_is_told(
    local: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    """Whoever publishes on a revision may read it: so numbers and tags above a scope can't be tried out."""
    secret = adapter(tmp_path, base, "one")
    (secret / "notes.txt").write_text("for us alone")
    first = local.publish(secret, "net/secret").revision
    local.fetch("net/secret", tmp_path / "given", kind="merged")
    writer = acting(local, "writer", "net/secret/mine")
    mine = adapter(tmp_path, base, "mine", seed=2)
    with pytest.raises(UsageError) as unclear:
        writer.publish(mine, "net/secret/mine")
    assert unclear.value.code == "parent_ambiguous"
    refused = []
    for guess in ("net/secret@1", "net/secret@7", "net/secret", first.digest[:15], first.digest[:-1] + "g"):
        parent = guess if guess.startswith("net") else f"net/secret@{guess}"
        with pytest.raises((NotFoundError, UsageError)) as none:
            writer.publish(mine, "net/secret/mine", parent=parent)
        refused.append(str(none.value).removeprefix(f"--parent {parent} "))
    assert len(set(refused[:4])) == 1
    sent = send(writer, mine, "net/secret/mine", parent=f"net/secret@{first.digest}")
    assert sent.revision.parent == "net/secret@1"

    second = local.publish(adapter(tmp_path, base, "again", seed=3), "net/secret", tags=["stage"]).revision
    following = adapter(tmp_path, base, "next", seed=4)
    for guess in ("net/secret@2", "net/secret@stage"):
        with pytest.raises(NotFoundError):
            writer.publish(following, "net/secret/mine", parent=guess)
    assert writer.publish(following, "net/secret/mine", parent="net/secret@1").revision.parent == "net/secret@1"
    third = adapter(tmp_path, base, "third", seed=5)
    assert writer.publish(third, "net/secret/mine", receipt=tmp_path / "given").revision.parent == "net/secret@1"
    pinned = writer.publish(third, "net/secret/mine", parent=f"net/secret@{second.digest}")
    assert pinned.revision.parent == "net/secret@2"


def test_what_lies_beside_the_weights_above_a_scope_is_not_handed_out(
    local: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    above = adapter(tmp_path, base, "one")
    (above / "notes.txt").write_text("for us alone")
    (above / "tokenizer.json").write_text("{}")
    local.publish(above, "net/secret")
    local.publish(adapter(tmp_path, base, "mine", seed=2), "net/secret/mine")
    reader = acting(local, "reader", "net/secret/mine")
    bundle = reader.bundle("net/secret/mine")
    link, own = bundle.links
    assert (link.summary is None, own.summary is None) == (True, False)
    assert (link.whole, own.whole) == (False, True)
    assert "notes" not in bundle.model_dump_json()
    for entry in link.files:
        reader.open_blob("net/secret/mine", entry).close()
    hidden = next(entry for entry in local.bundle("net/secret").links[0].files if entry.path == "notes.txt")
    with pytest.raises(NotFoundError):
        reader.open_blob("net/secret/mine", hidden)
    assert hidden.digest not in bundle.model_dump_json()
    local.open_blob("net/secret/mine", hidden).close()
    whole = local.bundle("net/secret/mine").links[0]
    assert whole.whole
    assert sha256_digest(whole.manifest.encode()) == whole.digest


def test_above_a_scope_a_manifest_that_hides_nothing_is_shown_whole(
    local: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/secret")
    local.publish(adapter(tmp_path, base, "mine", seed=2), "net/secret/mine")
    link = acting(local, "reader", "net/secret/mine").bundle("net/secret/mine").links[0]
    assert link.whole
    assert sha256_digest(link.manifest.encode()) == link.digest


def test_that_bytes_are_stored_elsewhere_is_not_told(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = adapter(tmp_path, base, "one")
    first = local.publish(folder, "net/one")
    assert local.publish(folder, "net/two").bytes_stored == 0
    scoped = send(acting(local, "writer", "net/three"), folder, "net/three")
    assert scoped.bytes_stored == sum(entry.size for entry in local.bundle("net/three").links[0].files)
    assert scoped.bytes_stored == first.bytes_stored


def test_that_a_base_is_stored_elsewhere_is_not_told(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    new = send_base(acting(local, "writer", "new"), "new", plain_base(tmp_path / "new", SHAPES, seed=7).folder)
    known = send_base(acting(local, "writer", "known"), "known", base.folder)
    assert (known.created, known.stored_by) == (new.created, new.stored_by) == (True, "copy")
    assert known.bytes_stored > known.base.size
    assert (known.bytes_stored > known.base.size) == (new.bytes_stored > new.base.size)
    assert send_base(local, "third", base.folder).stored_by == "none"


def test_a_copy_keeps_who_when_and_its_number(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = adapter(tmp_path, base, "one")
    digest = local.publish(folder, "net/one").revision.digest
    at = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)

    def copied(reference: str, digest: str, folder: Path = folder, path: str = "net/copy") -> Any:
        origin = Origin(registry="elsewhere", reference=reference, author="ada", created_at=at, digest=digest)
        request = request_of(folder, path)
        return local.commit_publish(
            prepare(local, replace(request, request=request.request.model_copy(update={"origin": origin})))
        )

    with pytest.raises(IntegrityError):
        copied("net/copy@5", "sha256:" + "0" * 64)
    assert [one.path for one in local.search().revisions] == ["net/one"]
    first = copied("net/copy@5", digest).revision
    assert (first.reference, first.author, first.created_at) == ("net/copy@5", "ada", at)
    other = adapter(tmp_path, base, "other", seed=2)
    other_digest = local.publish(other, "net/two").revision.digest
    assert copied("net/copy@5", other_digest, other).revision.reference == "net/copy@6"
    third = adapter(tmp_path, base, "third", seed=3)
    third_digest = local.publish(third, "net/three").revision.digest
    assert copied("net/copy@2", third_digest, third).revision.reference == "net/copy@2"
    local.delete("net/copy@2")
    assert copied("net/copy@2", third_digest, third).revision.reference == "net/copy@7"
    with pytest.raises(UsageError, match="999999999999999999"):  # all numbers after it would be none
        copied("net/copy@999999999999999999", third_digest, third, path="net/far")
    assert local.publish(adapter(tmp_path, base, "fourth", seed=4), "net/copy").revision.author != "ada"


def test_blobs_that_a_token_sees(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = adapter(tmp_path, base, "one")
    local.publish(folder, "net/one")
    digest = weights_of(folder)
    for scope, seen in (("net/one", True), ("net/two", False)):
        with acting(local, "writer", scope).deployment.read() as session:
            assert bool(blob_rows.visible(session, [digest])) is seen


def test_a_subtree_is_asked_for_page_by_page_or_whole_where_the_service_knows_no_pages(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    folder = adapter(tmp_path, made, "any")
    for name in ("one", "one/two", "three"):
        registry.publish(folder, f"net/{name}")
    wanted = ("net/one@1", "net/one/two@1", "net/three@1")
    do, asked = registry._do, []

    def note(operation: Any, request: Any, progress: Any = SILENT) -> Any:
        asked.append(request.after)
        return do(operation, request, progress)

    monkeypatch.setattr(registry, "_do", note)
    for at_once in (1, 2, 3, 4):
        monkeypatch.setattr(calls, "_REFERENCES", at_once)
        asked.clear()
        assert registry.subtree("net") == wanted
        assert asked == [None, *wanted[at_once - 1 :: at_once]]

    def refuse(operation: Any, request: Any, progress: Any = SILENT) -> Any:
        if request.limit is not None:
            raise UsageError("There is no parameter 'limit' here.")
        return do(operation, request, progress)

    monkeypatch.setattr(registry, "_do", refuse)
    assert registry.subtree("net") == wanted
