"""Deleting and undoing it, alike in process and over HTTP; what remains for the collector, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from registry.catalogue.team import jobs
from registry.errors import ConflictError, InvalidBaseError, NotAllowedError, NotFoundError, UsageError
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights, Role
from registry.schemas import TokenScope
from registry.services.local import LocalRegistry
from registry.services.upkeep.collect import collect
from registry.services.upkeep.health import check
from tests.kit import plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_place
from tests.kit.registries import ON_HTTP
from tests.kit.serving import ServedRegistry

# net/one/two@1 was trained on net/one@1.
TREE: Final = [("net/one", ("old", "prod")), ("net/one/two", ()), ("net/one", ()), ("net/other", ())]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, adapters on it, and a registry that holds them."""
    root = tmp_path_factory.mktemp("deletion")
    base = plain_base(root / "base", {"a.weight": (24, 16)})
    for seed in range(len(TREE)):
        write_adapter(root / f"adapter{seed}", base, ["a"], r=1, seed=seed)
    filled = LocalRegistry.open(root / "registry")
    fill(filled, root)
    filled.close()
    return root


def fill(registry: LocalRegistry, folders: Path) -> None:
    registry.add_base("net", folders / "base")
    for number, (path, tags) in enumerate(TREE):
        registry.publish(
            folders / f"adapter{number}",
            path,
            tags=tags,
            message=f"message {number}",
            metrics={"acc": 0.5},
            annotations={"data": "d"},
        )


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry", template=folders / "registry") as opened:
        if request.param == "team":
            fill(opened.registry, folders)
        yield opened


EMBEDDED = pytest.mark.parametrize("place", ["embedded"], indirect=True)
Any_ = LocalRegistry | ServedRegistry


@pytest.fixture(params=["local", ON_HTTP])
def registry(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[Any_]:
    """The same registry, in process and as a client of its service sees it."""
    with open_place(request, tmp_path / "registry", kind="embedded", template=folders / "registry") as opened:
        if request.param == "local":
            yield opened.registry
            return
        served = ServedRegistry(opened.registry, tmp_path / "served")
        yield served
        served.close()


def acting(place: Place, role: Role, *scopes: str) -> LocalRegistry:
    return place.registry.with_principal(Principal("eve", Rights(role, tuple(map(TreePath.parse, scopes)))))


def gc(place: Place, *, dry_run: bool = False) -> Any:
    return collect(place.deployment, dry_run=dry_run, progress=SILENT, grace=0)


def everything_said(registry: Any_) -> Any:
    """All that lists and views say, but for events, also those of tags, and materialisations."""
    shown = registry.show("net/one@1").model_copy(update={"tag_history": ()})
    return [registry.tree(), registry.bases(), registry.search(), registry.subtree("net"), registry.log("net/one"),
            shown, registry.search(tag="prod"), registry.search(metric="acc")]  # fmt: skip


@pytest.mark.parametrize("ref", ["net/one", "net/one@prod", "net"])
def test_a_delete_names_a_revision(registry: Any_, ref: str) -> None:
    for undo in (False, True):
        with pytest.raises(UsageError, match=r"number or digest|a revision of an adapter is expected"):
            registry.delete(ref, undo=undo)
    assert registry.resolve("net/one").reference == "net/one@2"


@pytest.mark.parametrize("path", ["net", "net/one@2"])
def test_a_whole_adapter_is_named_by_its_path(registry: Any_, path: str) -> None:
    with pytest.raises(UsageError, match=r"base delete -r net|a path is expected"):
        registry.delete_tree(path)


def test_options_that_contradict_an_undo(registry: Any_) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: registry.delete("net/one@2", with_tags=True, undo=True),
        lambda: registry.delete("net/one@2", dry_run=True, undo=True),
        lambda: registry.delete_tree("net/one", with_tags=True, undo=True),
        lambda: registry.delete_tree("net/one", dry_run=True, undo=True),
        lambda: registry.delete_base("net", recursive=True, undo=True),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match="--undo restores"):
            attempt()


def test_a_tagged_revision_goes_with_its_tags_only(registry: Any_, folders: Path) -> None:
    registry.delete("net/one/two@1")
    with pytest.raises(ConflictError, match="net/one@old, net/one@prod") as refused:
        registry.delete("net/one@1")
    assert refused.value.code == "tagged"
    before = registry.show("net/one@1")
    gone = registry.delete("net/one@1", with_tags=True)
    assert (gone.tags, gone.undone) == (("net/one@old", "net/one@prod"), False)
    assert gone.until is not None
    assert registry.search(tag="prod").revisions == ()
    registry.tag("net/one@2", "prod")
    given = registry.delete(f"net/one@{gone.digest[:16]}", undo=True)
    assert (given.tags, given.tags_elsewhere, given.undone) == (("net/one@old",), ("net/one@prod",), True)
    after = registry.show("net/one@1")
    assert before.revision is not None
    assert after.revision == before.revision.model_copy(update={"tags": ("old",)})
    assert (after.files, after.targets, after.lineage) == (before.files, before.targets, before.lineage)
    assert registry.delete("net/one@1", undo=True).reference == "net/one@1"  # it is there
    registry.fetch("net/one@1", folders.parent / "out", force=True)


def test_a_tree_is_listed_deleted_and_given_back(registry: Any_) -> None:
    said = everything_said(registry)
    listed = registry.delete_tree("net/one", dry_run=True)
    assert (listed.done, listed.until) == (False, None)
    assert listed.revisions == ("net/one@1", "net/one/two@1", "net/one@2")
    assert listed.tags == ("net/one@old", "net/one@prod")
    assert everything_said(registry) == said
    with pytest.raises(ConflictError) as refused:
        registry.delete_tree("net/one")
    assert refused.value.code == "tagged"
    gone = registry.delete_tree("net/one", with_tags=True)
    assert gone == listed.model_copy(update={"done": True, "until": gone.until})
    assert registry.subtree("net") == ("net/other@1",)
    given = registry.delete_tree("net/one", undo=True)
    assert (given.revisions, given.tags, given.undone) == (gone.revisions, gone.tags, True)
    assert everything_said(registry) == said


def test_a_base_model_is_listed_deleted_and_given_back(registry: Any_, folders: Path) -> None:
    registry.protect_tag("net", "pr*")
    token = registry.create_token("writer", scopes=["net/one"]).token
    registry.create_token("writer", scopes=["nets"])
    said = everything_said(registry)
    listed = registry.delete_base("net", dry_run=True)
    assert (listed.done, len(listed.revisions), listed.protected_tags) == (False, 4, ("pr*",))
    assert listed.scopes == (TokenScope(token=token.id, scope="net/one"),)
    with pytest.raises(ConflictError, match=r"net/one@1.*depend on it") as refused:
        registry.delete_base("net")
    assert refused.value.code == "has_children"
    gone = registry.delete_base("net", recursive=True)
    assert gone == listed.model_copy(update={"done": True, "until": gone.until})
    assert (registry.bases(), registry.tree().roots) == ((), ())
    with pytest.raises(NotFoundError, match="no base model net"):
        registry.publish(folders / "adapter0", "net/one")
    assert registry.delete_base("net", undo=True).revisions == gone.revisions
    assert everything_said(registry) == said
    assert registry.delete_base("net", undo=True).revisions == ()
    assert {"base delete", "base delete undo"} <= {one.action for one in registry.events()}


def test_a_name_that_is_given_anew(registry: Any_, folders: Path, tmp_path: Path) -> None:
    registry.delete_base("net", recursive=True)
    other = plain_base(tmp_path / "other", {"a.weight": (8, 8)})
    assert registry.add_base("net", other.folder).created
    assert registry.delete_base("net", undo=True).revisions == ()
    first = registry.publish(write_adapter(tmp_path / "first", other, ["a"], r=1), "net/one")
    assert first.revision.reference == "net/one@3"
    registry.fetch("net/one", tmp_path / "out", kind="merged")


def test_a_delete_ends_with_the_same_content(registry: Any_, folders: Path) -> None:
    registry.delete("net/other@1")
    again = registry.publish(folders / "adapter3", "net/other", message="again")
    assert (again.created, again.revision.reference, again.revision.message) == (True, "net/other@2", "again")
    assert again.revision.metrics == {}
    with pytest.raises(NotFoundError, match="no revision 1"):
        registry.delete("net/other@1", undo=True)


def test_the_grace_begins_with_the_delete_and_ends_with_a_collection(place: Place, folders: Path) -> None:
    registry = place.registry
    files = {file.digest for file in registry.show("net/other@1").files}
    registry.delete("net/other@1")
    assert registry.gc() == registry.gc(dry_run=True).model_copy(update={"dry_run": False})
    waiting = registry.gc()
    assert (waiting.blobs, waiting.revisions, waiting.kept_for_grace) == ((), (), 1)  # the configuration is shared
    registry.delete("net/other@1", undo=True)
    assert registry.gc().kept_for_grace == 0
    registry.delete("net/other@1")
    said = gc(place, dry_run=True)
    ended = gc(place)
    assert ended == said.model_copy(update={"dry_run": False})
    assert (ended.revisions, len(ended.blobs)) == (("net/other@1",), 1)
    assert {blob.digest for blob in ended.blobs} <= files
    with pytest.raises(NotFoundError, match="There is no deleted revision to restore"):
        registry.delete("net/other@1", undo=True)
    assert check(place.deployment, deep=True, progress=SILENT).damage == ()
    assert registry.publish(folders / "adapter3", "net/other").revision.number == 2


def test_a_base_model_is_collected_with_all_its_bytes(place: Place, folders: Path) -> None:
    registry = place.registry
    registry.delete_base("net", recursive=True)
    assert registry.gc().blobs == ()
    assert check(place.deployment, deep=True, progress=SILENT).damage == ()
    registry.delete_base("net", undo=True)
    registry.delete_base("net", recursive=True)
    said = gc(place, dry_run=True)
    ended = gc(place)
    assert ended == said.model_copy(update={"dry_run": False})
    assert (ended.bases, len(ended.revisions)) == (("net",), 4)
    with pytest.raises(NotFoundError, match="no base model net"):
        registry.delete_base("net", undo=True)
    assert check(place.deployment, deep=True, progress=SILENT).damage == ()
    fill(registry, folders)
    registry.delete_tree("net/one", with_tags=True)
    for ref in ("net/one@3", "net/other@2"):  # the numbers of before are taken
        with pytest.raises((NotFoundError, ConflictError)):
            registry.delete(ref.replace("@3", "@1").replace("@2", "@1"), undo=True)
    assert registry.resolve("net/other").reference == "net/other@2"
    gc(place)
    assert check(place.deployment, deep=True, progress=SILENT).damage == ()
    registry.fetch("net/other", folders.parent / "collected", kind="merged", force=True)


@EMBEDDED
def test_after_the_grace_there_is_no_undo(place: Place, folders: Path) -> None:
    short = LocalRegistry.open(place.folder, gc_grace=0)
    short.delete("net/other@1")
    with pytest.raises(NotFoundError, match="grace period is over"):
        short.delete("net/other@1", undo=True)
    short.delete_tree("net/one", with_tags=True)
    with pytest.raises(NotFoundError, match="grace period is over"):
        short.delete_tree("net/one", undo=True)
    short.delete_base("net")  # nothing lives below it
    with pytest.raises(NotFoundError, match="grace period is over"):
        short.delete_base("net", undo=True)
    short.close()


@EMBEDDED
def test_a_base_model_that_work_is_under_way_on_stays(place: Place) -> None:
    deployment, registry = place.deployment, place.registry
    requests = (
        ('{"request": {"path": "net/one", "config": ""}}', "publish"),
        ('{"request": {"name": "net"}}', "base"),
        ('{"ref": "net/one@1"}', "materialise"),
        ('{"base": "net"}', "some newer kind"),
    )
    for request, kind in requests:
        row = deployment.change(lambda s: jobs.create(s, kind, request, deployment.principal))  # noqa: B023
        with pytest.raises(ConflictError, match=f"operation {row.id}") as refused:
            registry.delete_base("net", recursive=True)
        assert refused.value.code == "in_use"
        deployment.change(lambda s: jobs.claim(s, "me", [kind]))  # noqa: B023
        deployment.change(lambda s: jobs.finish(s, row.id, "me", "{}"))  # noqa: B023
    for request, kind in (('{"ref": "nets/one"}', "materialise"), ("{}", "gc")):
        deployment.change(lambda s: jobs.create(s, kind, request, deployment.principal))  # noqa: B023
    assert registry.delete_base("net", recursive=True).done


@EMBEDDED
@pytest.mark.parametrize(
    ("role", "scopes", "allowed"),
    [
        ("reader", (), ""),
        ("writer", ("net/one",), "one one-tree"),
        ("writer", (), "one one-tree other"),
        ("admin", ("net/one",), "one one-tree"),
        ("admin", ("net",), "one one-tree other base"),
    ],
)
def test_who_may(place: Place, role: Role, scopes: tuple[str, ...], allowed: str) -> None:
    eve = acting(place, role, *scopes)
    attempts: dict[str, Callable[[], object]] = {
        "one": lambda: (eve.delete("net/one/two@1"), eve.delete("net/one/two@1", undo=True)),
        "one-tree": lambda: (eve.delete_tree("net/one", with_tags=True), eve.delete_tree("net/one", undo=True)),
        "other": lambda: (eve.delete("net/other@1"), eve.delete("net/other@1", undo=True)),
        "base": lambda: (eve.delete_base("net", recursive=True), eve.delete_base("net", undo=True)),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except NotAllowedError:
            continue
    assert " ".join(done) == allowed


@EMBEDDED
def test_a_copy_ends_the_undo_too_and_takes_no_number_twice(place: Place, tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "target")) as target:
        place.registry.copy("net", target, recursive=True)
        target.delete("net/other@1")
        answer = place.registry.copy("net/other", target)
        assert [(one.reference, one.created) for one in answer.revisions] == [("net/other@2", True)]
        with pytest.raises(NotFoundError):
            target.delete("net/other@1", undo=True)
        place.registry.delete("net/one/two@1")
        target.delete("net/one/two@1")
        assert place.registry.copy("net", target, recursive=True).notices == ()
        with pytest.raises(NotFoundError):
            target.resolve("net/one/two")


# ------------------------------------------------------------------ adapters are no base models


def test_an_adapter_is_not_added_as_a_base_model(registry: Any_, folders: Path, tmp_path: Path) -> None:
    plain = write_adapter(tmp_path / "plain", plain_base(tmp_path / "b", {"a.weight": (24, 16)}), ["a"], r=1)
    pickled = tmp_path / "pickled"  # as PEFT wrote them before
    pickled.mkdir()
    (pickled / "adapter_config.json").write_bytes((plain / "adapter_config.json").read_bytes())
    (pickled / "adapter_model.bin").write_bytes(b"PK")
    bare = tmp_path / "bare"  # only its weights, under the name of a model's
    bare.mkdir()
    (bare / "model.safetensors").write_bytes((plain / "adapter_model.safetensors").read_bytes())
    for folder in (plain, pickled, bare):
        with pytest.raises(InvalidBaseError, match="registry publish DIR BASE/NAME") as refused:
            registry.add_base("fresh", folder)
        assert refused.value.code == "adapter_as_base"
    assert [one.name for one in registry.bases()] == ["net"]
    nested = plain_base(tmp_path / "nested", {"a.weight": (24, 16)}).folder
    (nested / "adapter_config.json").write_text("{}")  # a whole model beside it: views leave the file out
    (nested / "mine").mkdir()
    (nested / "mine" / "adapter_config.json").write_text("{}")
    added = registry.add_base("fresh", nested)
    assert [left.path for left in added.left_out] == ["mine"]
