"""Deleting, retracting, protecting: what is refused, what remains, and what a token may do of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, NotAllowedError, NotFoundError, RetractedError, UsageError
from registry.rights import Role
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.acting import acting
from tests.kit.places import KINDS, open_place

# net/one/two@1 was trained on net/one@1.
TREE = [
    ("net/one", "old"),
    ("net/one/two", "prod"),
    ("net/one", "prod"),
    ("net/one/two/three", "best"),
    ("net/other", "prod"),
]
REASON = "trained on test data"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, adapters on it, and a registry that holds them."""
    root = tmp_path_factory.mktemp("life")
    base = plain_base(root / "base", {"a.weight": (24, 16)})
    for seed in range(len(TREE)):
        write_adapter(root / f"adapter{seed}", base, ["a"], r=1, seed=seed)
    filled = LocalRegistry.open(root / "registry")
    fill(filled, root)
    filled.close()
    return root


def fill(registry: LocalRegistry, folders: Path) -> None:
    registry.add_base("net", folders / "base")
    for number, (path, tag) in enumerate(TREE):
        registry.publish(folders / f"adapter{number}", path, tags=[tag])


@pytest.fixture(params=KINDS)
def registry(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[LocalRegistry]:
    with open_place(request, tmp_path / "registry", template=folders / "registry") as place:
        if request.param == "team":
            fill(place.registry, folders)
        yield place.registry


EMBEDDED = pytest.mark.parametrize("registry", ["embedded"], indirect=True)


def test_a_parent_is_not_deleted(registry: LocalRegistry) -> None:
    with pytest.raises(ConflictError, match="net/one/two@1") as refused:
        registry.delete("net/one@1")
    assert refused.value.code == "has_children"
    assert registry.resolve("net/one@old").reference == "net/one@1"


def test_what_remains_of_a_deleted_revision_is_the_event_and_its_number(registry: LocalRegistry, folders: Path) -> None:
    digest = registry.resolve("net/one@2").digest
    answer = registry.delete("net/one@2", with_tags=True)
    assert (answer.reference, answer.digest, answer.tags) == ("net/one@2", digest, ("net/one@prod",))
    event = registry.events(limit=1)[0]
    assert (event.action, event.subject, event.detail["digest"]) == ("delete", "net/one@2", digest)
    for ref in ("net/one@2", "net/one@prod", f"net/one@{digest}"):
        with pytest.raises(NotFoundError):
            registry.resolve(ref)
    assert registry.resolve("net/one").reference == "net/one@1"
    again = registry.publish(folders / "adapter2", "net/one")
    assert (again.revision.reference, again.revision.digest) == ("net/one@3", digest)


@EMBEDDED
def test_children_go_before_their_parents(registry: LocalRegistry) -> None:
    for ref in ("net/one/two/three@1", "net/one/two@1", "net/one@2", "net/one@1"):
        registry.delete(ref, with_tags=True)
    assert registry.subtree("net") == ("net/other@1",)


def test_a_retraction_takes_down_all_that_contains_it(registry: LocalRegistry, folders: Path, tmp_path: Path) -> None:
    answer = registry.retract("net/one@1", reason=REASON)
    assert answer.reference == "net/one@1"
    assert answer.reason == REASON
    assert sorted(answer.descendants) == ["net/one/two/three@1", "net/one/two@1"]
    assert answer.tags == ("net/one@old", "net/one/two@prod", "net/one/two/three@best")
    reads: list[Callable[[str], Any]] = [
        lambda ref: registry.fetch(ref, tmp_path / "out"),
        lambda ref: registry.fetch(ref, tmp_path / "out", kind="merged"),
        lambda ref: registry.artifact(ref, kind="published"),
        registry.bundle,
    ]
    for ref in ("net/one@1", "net/one/two", "net/one/two/three@best"):
        for read in reads:
            with pytest.raises(RetractedError, match=REASON):
                read(ref)
        shown = registry.show(ref).revision
        assert shown is not None
        assert shown.retracted is not None
        assert (shown.retracted.reference, shown.retracted.reason) == ("net/one@1", REASON)
    assert not (tmp_path / "out").exists()
    assert [one.number for one in registry.log("net/one").revisions] == [2, 1]
    assert registry.tree("net/one").roots
    registry.fetch("net/one@2", tmp_path / "other")
    with pytest.raises(RetractedError):
        registry.publish(folders / "adapter4", "net/one/two/three", parent="net/one/two@1")


def test_an_undo_gives_it_back(registry: LocalRegistry, tmp_path: Path) -> None:
    registry.retract("net/one@1", reason=REASON)
    answer = registry.retract("net/one@1", undo=True)
    assert (answer.reason, len(answer.descendants)) == (None, 2)
    registry.fetch("net/one/two/three", tmp_path / "out", kind="merged")
    assert [event.action for event in registry.events(limit=2)] == ["retract undo", "retract"]
    assert registry.retract("net/one@1", undo=True).reason is None
    assert len(registry.events(limit=3)) == 3


@EMBEDDED
def test_a_retraction_needs_a_reason_and_an_undo_takes_none(registry: LocalRegistry) -> None:
    for options in ({"reason": ""}, {"reason": "  "}, {"reason": REASON, "undo": True}):
        with pytest.raises(UsageError):
            registry.retract("net/one@1", **options)
    registry.fetch("net/one@1")


@EMBEDDED
def test_base_models_are_neither_deleted_nor_retracted(registry: LocalRegistry) -> None:
    with pytest.raises(UsageError, match="base model"):
        registry.delete("net")
    with pytest.raises(UsageError, match="base model"):
        registry.retract("net", reason=REASON)
    with pytest.raises(UsageError, match="whole base model"):
        registry.protect_tag("net/one", "prod")
    with pytest.raises(NotFoundError, match="absent"):
        registry.protect_tag("absent", "prod")


def test_a_protected_tag_holds_its_revision(registry: LocalRegistry) -> None:
    assert [one.pattern for one in registry.protect_tag("net", "pr*")] == ["pr*"]
    writer = acting(registry, "writer")
    for work in (
        lambda: writer.tag("net/other@1", "prod-2"),
        lambda: writer.untag("net/other", "prod"),
        lambda: writer.delete("net/other@1"),
    ):
        with pytest.raises(NotAllowedError) as refused:
            work()
        assert refused.value.code == "protected_tag"
    writer.tag("net/other@1", "best")
    assert registry.protect_tag("net", "pr*", remove=True) == ()
    assert writer.delete("net/other@1", with_tags=True).tags == ("net/other@best", "net/other@prod")
    with pytest.raises(NotFoundError):
        registry.protect_tag("net", "pr*", remove=True)


@EMBEDDED
@pytest.mark.parametrize(
    ("role", "scopes", "allowed"),
    [
        ("reader", (), set()),
        ("writer", ("net/one",), {"one"}),
        ("writer", (), {"one", "other"}),
        ("admin", ("net/one",), {"one"}),
        ("admin", ("net",), {"one", "other", "protect"}),
    ],
)
def test_rights(registry: LocalRegistry, role: Role, scopes: tuple[str, ...], allowed: set[str]) -> None:
    eve = acting(registry, role, *scopes)
    work: dict[str, Callable[[], object]] = {
        "one": lambda: (eve.retract("net/one/two@1", reason=REASON), eve.delete("net/one/two/three@1", with_tags=True)),
        "other": lambda: (eve.retract("net/other@1", reason=REASON), eve.delete("net/other@1", with_tags=True)),
        "protect": lambda: eve.protect_tag("net", "prod"),
    }
    done = set()
    for name, attempt in work.items():
        try:
            attempt()
            done.add(name)
        except NotAllowedError:
            continue
    assert done == allowed
    if done:
        assert {(event.actor, event.token) for event in registry.events(limit=len(done))} == {
            ("holder of tok_1", "tok_1")
        }
