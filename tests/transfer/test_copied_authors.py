"""Whose a copy is: its author and date are the original's where an admin of its path copies it, else the copier's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.rights import Role
from registry.schemas import CopiedFrom, RevisionSummary
from registry.schemas.transfer import Origin
from registry.services.local import LocalRegistry
from tests.kit import Base
from tests.kit.acting import acting
from tests.kit.sending import adapter, another, prepare, request_of

AT = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)


@pytest.fixture
def digest(local: LocalRegistry, base: Base, tmp_path: Path) -> str:
    return local.publish(adapter(tmp_path, base, "one"), "net/one").revision.digest


def copied(acts: LocalRegistry, folder: Path, digest: str, path: str = "net/copy", **said: str) -> RevisionSummary:
    """A copy as a program of one's own may make it: with whatever author and date."""
    given = {"registry": "https://far", "reference": "net/one@5", "author": "ada"} | said
    request = request_of(folder, path)
    origin = Origin(created_at=AT, digest=digest, **given)
    made = replace(request, request=request.request.model_copy(update={"origin": origin}))
    return acts.commit_publish(prepare(acts, made)).revision


@pytest.mark.parametrize(
    ("role", "scopes", "kept"),
    [
        ("writer", (), False),
        ("writer", ("net/copy",), False),
        ("admin", (), True),
        ("admin", ("net/copy",), True),
        ("admin", ("net",), True),
    ],
)
def test_only_an_admins_copy_keeps_author_and_date(
    local: LocalRegistry, tmp_path: Path, digest: str, role: Role, scopes: tuple[str, ...], kept: bool
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    found = copied(acting(local, role, *scopes), tmp_path / "one", digest)
    assert found.reference == "net/copy@5"
    assert found.digest == digest
    original = CopiedFrom(registry="https://far", reference="net/one@5", author="ada", created_at=AT)
    assert found.copied_from == original
    assert (found.author == "ada") == (found.created_at == AT) == kept
    if not kept:
        assert found.author == "holder of tok_1"
        assert found.created_at >= before
    assert local.show("net/copy").revision == local.log("net/copy").revisions[0] == found
    assert found in local.search().revisions
    (event,) = [one for one in local.events() if one.subject == found.reference]
    assert event.actor == "holder of tok_1"
    assert event.detail["copied_from"] == "net/one@5 of https://far"
    assert event.detail.get("author") == ("ada" if kept else None)


def test_what_is_no_copy_was_copied_from_nowhere(local: LocalRegistry, digest: str) -> None:
    assert local.log("net/one").revisions[0].copied_from is None


def test_a_copy_that_is_there_stays_as_it_is(local: LocalRegistry, tmp_path: Path, digest: str) -> None:
    """Whoever comes second, with whatever rights, changes nothing: nobody makes himself its author."""
    first = copied(acting(local, "writer"), tmp_path / "one", digest)
    for registry in (local, acting(local, "writer", token="tok_2"), acting(local, "writer")):
        assert copied(registry, tmp_path / "one", digest, author="eve", reference="net/one@9") == first
    published = local.log("net/one").revisions[0]
    assert copied(acting(local, "writer"), tmp_path / "one", digest, path="net/one") == published


@pytest.mark.parametrize("said", [{"author": "a\0b"}, {"registry": "x" * 20_000}, {"registry": "\ud800"}])
def test_an_origin_that_no_database_takes_is_refused(
    local: LocalRegistry, tmp_path: Path, digest: str, said: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        copied(acting(local, "writer"), tmp_path / "one", digest, **said)
    assert [one.path for one in local.search().revisions] == ["net/one"]


def test_a_copy_tells_whose_it_is_there_and_a_second_one_changes_nothing(
    local: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    local.publish(adapter(tmp_path, base, "one"), "net/one")
    local.publish(adapter(tmp_path, base, "two", seed=2), "net/one/two")
    ours = {one.digest: one for path in ("net/one", "net/one/two") for one in local.log(path).revisions}
    with another(tmp_path) as target:
        writer = acting(target, "writer")
        answer = local.copy("net", writer, recursive=True)
        assert len(answer.revisions) == 2
        (notice,) = answer.notices
        assert "records holder of tok_1 as the author" in notice
        theirs = {one.digest: one for path in ("net/one", "net/one/two") for one in target.log(path).revisions}
        assert theirs.keys() == ours.keys()
        for digest, found in theirs.items():
            own = ours[digest]
            assert found.author == "holder of tok_1"
            assert found.copied_from == CopiedFrom(
                registry=local.url, reference=own.reference, author=own.author, created_at=own.created_at
            )
        again = local.copy("net", writer, recursive=True)
        assert [one.created for one in again.revisions] == [False, False]
        assert (again.bytes_copied, again.notices) == (0, ())
        back = tmp_path / "back"
        with_original = LocalRegistry.open(back, cache_folder=tmp_path / "cache")
        target.copy("net/one", with_original)  # by who works on a folder: an admin
        copy_of_a_copy = with_original.log("net/one").revisions[0]
        assert copy_of_a_copy.author == "holder of tok_1"
        assert copy_of_a_copy.copied_from is not None
        assert copy_of_a_copy.copied_from.registry == target.url
        with_original.close()
