"""Commit ids: what they depend on, and that they are found again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import get_args

import pytest

from registry.catalogue.tree.commits import MEANT
from registry.digest import canonical_json, sha256_digest
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import ArtifactKind
from registry.services.artifacts import commits
from registry.services.artifacts.commits import RepoNames, is_commit
from registry.tensors.artifacts.plan import fingerprint

KINDS: tuple[ArtifactKind, ...] = get_args(ArtifactKind)


@dataclass(frozen=True)
class Digests:
    digest: str = sha256_digest(b"base")
    files_digest: str = sha256_digest(b"files")
    table_digest: str = sha256_digest(b"table")
    hub_name: str = "tiny/_"


def names(kind: ArtifactKind = "merged", path: str = "tiny/a", base: Digests | None = None) -> RepoNames:
    return RepoNames.of(kind, Path.parse(path), base or Digests())


def test_a_commit_says_all_that_is_meant_and_how_it_is_made() -> None:
    revision = sha256_digest(b"revision")
    others = [
        *(names(kind) for kind in KINDS),
        names(path="tiny/a/b"),
        names(path="other/a"),
        *(names(base=Digests(**{field: sha256_digest(b"x")})) for field in vars(Digests()) if field != "hub_name"),
    ]
    found = [one.commit(revision) for one in others] + [names().commit(sha256_digest(b"x"))]
    assert len({commit[:MEANT] for commit in found}) == len(found)
    assert all(map(is_commit, found))
    assert found == [one.commit(revision) for one in others] + [names().commit(sha256_digest(b"x"))]


def test_a_meaning_is_the_digest_of_a_document() -> None:
    """Hashing many revisions shares what is the same; the outcome is that of the plain way, for ever."""
    revision = sha256_digest(b"revision")
    document = {
        "view": "merged", "repo": "tiny/a", "revision": revision, "base": Digests.digest,
        "base_files": Digests.files_digest, "table": Digests.table_digest,
    }  # fmt: skip
    assert names().meaning(revision) == sha256_digest(canonical_json(document))[7 : 7 + MEANT]
    assert names().commit(revision)[:MEANT] == "22fc863aebb871b996894745a3d8"


def test_arithmetic_and_format_show_where_bytes_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {kind: names(kind).making for kind in KINDS}
    assert before["merged"] == before["lora"] == names().made_by(fingerprint()) != names().made_by("another")
    monkeypatch.setattr(commits, "ARTIFACT_FORMAT", 99)
    commits._made_by.cache_clear()
    after = {kind: names(kind).making for kind in KINDS}
    commits._made_by.cache_clear()
    assert [kind for kind in KINDS if before[kind] == after[kind]] == ["published"]


def test_a_base_that_cards_call_another_name_makes_other_bytes_of_what_is_computed() -> None:
    """A base model that was deleted and added again may come from elsewhere, with the same weights."""
    revision = sha256_digest(b"revision")
    other = Digests(hub_name="meta/llama")
    for kind in KINDS:
        mine, its = names(kind).commit(revision), names(kind, base=other).commit(revision)
        assert mine[:MEANT] == its[:MEANT]
        assert (mine == its) is (kind == "published")
    assert names(path="tiny").commit(None) == names(path="tiny", base=other).commit(None)


def test_a_base_is_the_same_in_all_views() -> None:
    assert len({names(kind, "tiny").commit(None) for kind in KINDS}) == 1
    assert names("merged", "tiny").kind == "published"


def test_a_commit_is_found_among_many_revisions() -> None:
    revisions = [sha256_digest(b"%d" % number) for number in range(3000)]
    mine, other = names(), names("lora")
    for digest in (revisions[0], revisions[-1]):
        assert mine.find(mine.commit(digest), revisions) == digest
        assert mine.find(mine.meaning(digest) + "0" * 12, revisions) == digest
        assert mine.find(other.commit(digest), revisions) is None


@pytest.mark.parametrize("text", ["tiny", "tiny/a", "tiny/a/b-c_d/e1", "llama-3.1/a"])
def test_a_repo_id_leads_back_to_its_path(text: str) -> None:
    path = Path.parse(text)
    assert Path.of_repo_id(path.repo_id) == path


@pytest.mark.parametrize(
    "text",
    ["", "tiny", "tiny/", "/a", "tiny/a/b", "tiny/a..b", "tiny/.a", "tiny/a.", "tiny/_.a", "tiny/a._", "tiny/A",
     "tiny/__", "api/a", "tiny/refs", "tiny/" + ".".join(itertools.repeat("a", 49)), "tiny/a b", "tiny/a\n"],
)  # fmt: skip
def test_what_is_no_repo_id_of_a_path(text: str) -> None:
    with pytest.raises(UsageError):
        Path.of_repo_id(text)
