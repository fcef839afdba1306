"""Copying between registries: what arrives is the same, only what is missing travels, and a stopped copy goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import connect
from registry.errors import (
    ConflictError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.files.source import ByteSource
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas import RevisionSummary
from registry.services.local import LocalRegistry
from registry.transfer.copy import copy
from tests.conftest import StartService
from tests.kit import Base, add_tokenizer, plain_base, read_model, write_adapter
from tests.kit.places import open_place

SHAPES = {"a.weight": (24, 16), "b.weight": (600, 512)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Path]:
    """A base model, and a registry with net/one@1..2, net/one/two@1 on one@1, net/one/two@2 on one@2, net/other@1."""
    root = tmp_path_factory.mktemp("copy")
    base = plain_base(root / "base", SHAPES)
    add_tokenizer(base.folder)

    def adapter(name: str, seed: int, targets: tuple[str, ...] = ("a",)) -> Path:
        return write_adapter(root / name, base, list(targets), r=2, seed=seed)

    source = LocalRegistry.open(root / "registry", actor="anna")
    source.add_base("net", base.folder)
    source.publish(adapter("one", 1), "net/one", message="the first", metrics={"acc": 0.5}, tags=["old"])
    source.publish(adapter("two", 2, ("a", "b")), "net/one/two", annotations={"owner": "anna"})
    source.publish(adapter("one-again", 3), "net/one", tags=["prod"])
    source.publish(adapter("two-again", 4), "net/one/two", parent="net/one@2", tags=["prod"])
    source.publish(adapter("other", 5), "net/other")
    source.close()
    return base, root / "registry"


@pytest.fixture
def base(made: tuple[Base, Path]) -> Base:
    return made[0]


@pytest.fixture
def tree(made: tuple[Base, Path], tmp_path: Path) -> Iterator[LocalRegistry]:
    shutil.copytree(made[1], tmp_path / "source")
    opened = LocalRegistry.open(tmp_path / "source", actor="anna", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "target", actor="bert", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture(params=["team", pytest.param("service", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A registry that is no folder: PostgreSQL and S3 in process, and one over HTTP."""
    if request.param == "team":
        with open_place(request, tmp_path / "far", kind="team") as place:
            yield place.registry
        return
    start: StartService = request.getfixturevalue("start_service")
    service = start({"REGISTRY_URL": str(tmp_path / "far")})
    opened = connect(service.url)
    yield opened
    opened.close()


def said(registry: LocalRegistry) -> dict[str, tuple[Any, ...]]:
    """What is known about every revision, but where it lies."""
    found = {}
    for ref in registry.subtree("net"):
        one = registry.show(ref).revision
        assert one is not None
        found[ref] = (
            one.digest, one.parent, one.rank, one.message, one.author, one.created_at, one.tags, one.metrics,
            one.annotations, one.trained_on, one.notices, registry.show(ref).files, registry.show(ref).targets,
        )  # fmt: skip
    return found


class CountedBytes:
    """A source that counts what is read of it."""

    def __init__(self, inner: ByteSource) -> None:
        self._inner = inner
        self.read = 0

    @property
    def size(self) -> int:
        return self._inner.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read += len(buffer)
        self._inner.read_into(offset, buffer)


class Counted:
    """A target that counts the bytes that come, and is gone after so many uploads, commits and tags."""

    def __init__(self, inner: LocalRegistry, stop_at: int = 1 << 30) -> None:
        self._inner = inner
        self._left = stop_at
        self.moved: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnavailableError("The line is down.")

    def upload(self, digest: str, source: ByteSource, **options: Any) -> str:
        self._step()
        counted = CountedBytes(source)
        try:
            return self._inner.upload(digest, counted, **options)
        finally:
            self.moved[digest] += counted.read

    def commit_publish(self, *args: Any, **options: Any) -> Any:
        self._step()
        return self._inner.commit_publish(*args, **options)

    def commit_base(self, *args: Any, **options: Any) -> Any:
        self._step()
        return self._inner.commit_base(*args, **options)

    def tag(self, *args: Any) -> Any:
        self._step()
        return self._inner.tag(*args)


def silent_copy(source: LocalRegistry, ref: str, target: Any, *, recursive: bool = False) -> Any:
    from registry.progress import SILENT

    return copy(source, ref, target, recursive=recursive, progress=SILENT)


def test_a_subtree_arrives_with_all_that_is_said_about_it(tree: LocalRegistry, target: LocalRegistry) -> None:
    answer = silent_copy(tree, "net", target, recursive=True)
    assert said(target) == said(tree)
    assert answer.base_created
    assert [(one.source, one.reference, one.created) for one in answer.revisions] == [
        (ref, ref, True) for ref in ("net/one@1", "net/one@2", "net/other@1", "net/one/two@1", "net/one/two@2")
    ]
    assert answer.notices == ()
    shown = target.show("net").base
    there = tree.show("net").base
    assert (shown.digest, shown.table_digest, shown.files) == (there.digest, there.table_digest, there.files)
    assert answer.bytes_copied > shown.size


def test_a_base_model_keeps_the_table_that_it_was_given(
    tree: LocalRegistry, target: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of transformers may make another table; what was composed with this one stays the same."""

    def other_version(*args: object) -> None:
        pytest.fail("a table was made anew")

    monkeypatch.setattr("registry.services.bases.add.make_table", other_version)
    silent_copy(tree, "net", target)
    assert target.show("net").base.table_digest == tree.show("net").base.table_digest


def test_merged_bytes_are_the_same_there_and_back(tree: LocalRegistry, target: LocalRegistry, tmp_path: Path) -> None:
    silent_copy(tree, "net/one", target, recursive=True)
    back = LocalRegistry.open(tmp_path / "back", cache_folder=tmp_path / "cache")
    silent_copy(target, "net/one", back, recursive=True)
    expected = {ref: one for ref, one in said(tree).items() if ref != "net/other@1"}
    assert said(back) == said(target) == expected
    for number, ref in enumerate(("net/one/two@1", "net/one/two@2")):
        folders = [tmp_path / f"{number}-{name}" for name in ("first", "back")]
        for registry, folder in zip((tree, back), folders, strict=True):
            registry.fetch(ref, folder, kind="merged")
        assert read_model(folders[0]) == read_model(folders[1])
    back.close()


@pytest.mark.long_on("team")
@pytest.mark.slow_on("team")
def test_far_away_and_back(tree: LocalRegistry, far: Any, tmp_path: Path) -> None:
    silent_copy(tree, "net", far, recursive=True)
    assert said(far) == said(tree)
    again = silent_copy(tree, "net", far, recursive=True)
    assert (again.bytes_copied, [one for one in again.revisions if one.created]) == (0, [])
    back = LocalRegistry.open(tmp_path / "back", cache_folder=tmp_path / "cache")
    answer = silent_copy(far, "net", back, recursive=True)
    assert answer.base_created
    assert said(back) == said(tree)
    for name, registry in (("merged", tree), ("merged-back", back)):
        registry.fetch("net/one/two@1", tmp_path / name, kind="merged")
    assert read_model(tmp_path / "merged") == read_model(tmp_path / "merged-back")
    back.close()


def test_a_second_copy_moves_nothing(tree: LocalRegistry, target: LocalRegistry) -> None:
    silent_copy(tree, "net", target, recursive=True)
    events = len(target.events(limit=1000))
    counted = Counted(target)
    again = silent_copy(tree, "net", counted, recursive=True)
    assert (again.bytes_copied, again.base_created, counted.moved) == (0, False, Counter())
    assert not any(one.created for one in again.revisions)
    assert len(target.events(limit=1000)) == events


def test_one_revision_brings_its_lineage_and_nothing_else(tree: LocalRegistry, target: LocalRegistry) -> None:
    answer = silent_copy(tree, "net/one/two@1", target)
    assert [one.reference for one in answer.revisions] == ["net/one@1", "net/one/two@1"]
    assert set(target.subtree("net")) == {"net/one@1", "net/one/two@1"}
    tagged = silent_copy(tree, "net/one/two@prod", target)
    assert [(one.reference, one.created) for one in tagged.revisions] == [("net/one@2", True), ("net/one/two@2", True)]
    with pytest.raises(UsageError, match="give a path"):
        silent_copy(tree, "net/one@1", target, recursive=True)
    with pytest.raises(NotFoundError):
        silent_copy(tree, "net/absent", target, recursive=True)


def test_a_subtree_brings_older_revisions_that_it_is_pinned_to(tree: LocalRegistry, target: LocalRegistry) -> None:
    answer = silent_copy(tree, "net/one/two", target, recursive=True)
    assert [one.reference for one in answer.revisions] == ["net/one@1", "net/one@2", "net/one/two@1", "net/one/two@2"]


def test_a_base_model_alone(tree: LocalRegistry, target: LocalRegistry) -> None:
    answer = silent_copy(tree, "net", target)
    assert (answer.base_created, answer.revisions) == (True, ())
    assert target.tree().roots[0].children == ()


def test_a_copy_that_was_stopped_goes_on(tree: LocalRegistry, target: LocalRegistry) -> None:
    """Stopped before one step after the other; all that is there is whole, and no byte travels twice."""
    moved: Counter[str] = Counter()
    stops = 0
    while True:
        counted = Counted(target, stop_at=stops)
        try:
            silent_copy(tree, "net", counted, recursive=True)
            break
        except UnavailableError:
            stops += 1
        finally:
            moved += counted.moved
        for ref in [ref for base in target.bases() for ref in target.subtree(base.name)]:
            assert target.resolve(ref).digest == tree.resolve(ref).digest
    assert stops > 6
    assert said(target) == said(tree)
    sizes = {file.digest: file.size for ref in ("net", *tree.subtree("net")) for file in tree.show(ref).files}
    assert moved == Counter(sizes)


def test_numbers_that_are_taken_become_others(
    tree: LocalRegistry, target: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    target.add_base("net", base.folder)
    own = target.publish(write_adapter(tmp_path / "own", base, ["b"], r=2, seed=9), "net/one", tags=["prod"])
    answer = silent_copy(tree, "net/one", target, recursive=True)
    names = {one.source: one.reference for one in answer.revisions}
    assert not answer.base_created
    assert len(set(names.values())) == 4
    assert "net/one@1" not in names.values()
    for source_ref, target_ref in names.items():
        there, here = tree.show(source_ref).revision, target.show(target_ref).revision
        assert there is not None
        assert here is not None
        assert here.digest == there.digest
        assert here.parent == names.get(there.parent, there.parent)
    assert target.resolve("net/one@prod").reference == own.revision.reference
    assert [notice for notice in answer.notices if "net/one@prod" in notice]
    assert target.resolve("net/one/two@prod").reference == names["net/one/two@2"]


def test_other_weights_under_the_name_are_a_conflict(
    tree: LocalRegistry, target: LocalRegistry, tmp_path: Path
) -> None:
    other = plain_base(tmp_path / "other", SHAPES, seed=7)
    target.add_base("net", other.folder)
    with pytest.raises(ConflictError) as refused:
        silent_copy(tree, "net/one", target)
    assert refused.value.code == "other_weights"
    assert target.tree().roots[0].children == ()


def test_into_itself_is_refused(tree: LocalRegistry) -> None:
    with pytest.raises(UsageError, match="source and the target"):
        silent_copy(tree, "net", tree, recursive=True)


def test_what_is_retracted_is_not_handed_over_and_is_retracted_there(
    tree: LocalRegistry, target: LocalRegistry
) -> None:
    silent_copy(tree, "net/one/two@1", target)
    tree.retract("net/one@1", reason="trained on test data")
    with pytest.raises(RetractedError, match="trained on test data"):
        silent_copy(tree, "net/one/two@1", target)
    answer = silent_copy(tree, "net", target, recursive=True)
    assert {"net/other@1", "net/one/two@2"} <= set(target.subtree("net"))
    with pytest.raises(RetractedError, match="trained on test data"):
        target.fetch("net/one/two@1")
    assert any("retracted" in notice for notice in answer.notices)


def test_what_the_target_has_retracted_stays_so(
    tree: LocalRegistry, target: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    silent_copy(tree, "net/one@1", target)
    target.retract("net/one@1", reason="not for us")
    tree.publish(
        write_adapter(tmp_path / "three", base, ["a"], r=2, seed=6), "net/one/two/three", parent="net/one/two@1"
    )
    answer = silent_copy(tree, "net", target, recursive=True)
    assert sorted(target.subtree("net")) == ["net/one/two@2", "net/one@1", "net/one@2", "net/other@1"]
    assert len(answer.notices) == 1
    assert "not for us" in answer.notices[0]
    with pytest.raises(RetractedError, match="not for us"):
        silent_copy(tree, "net/one/two@1", target)


def test_scopes_of_the_source_show_no_more_than_they_cover(tree: LocalRegistry, target: LocalRegistry) -> None:
    """What lies above a scope can be composed, but nobody there may see who made it: the target has to have it."""
    scoped = tree.with_principal(Principal("eve", Rights("reader", (TreePath("net", ("one", "two")),))))
    with pytest.raises(NotAllowedError, match="net/one@1"):
        silent_copy(scoped, "net/one/two", target, recursive=True)
    silent_copy(tree, "net/one@1", target)
    silent_copy(tree, "net/one@2", target)
    answer = silent_copy(scoped, "net/one/two", target, recursive=True)
    assert [one.reference for one in answer.revisions if one.created] == ["net/one/two@1", "net/one/two@2"]


def test_scopes_of_the_target_need_what_lies_above_there(tree: LocalRegistry, target: LocalRegistry) -> None:
    scoped = target.with_principal(Principal("eve", Rights("writer", (TreePath("net", ("one", "two")),))))
    with pytest.raises(NotAllowedError):
        silent_copy(tree, "net/one/two", scoped, recursive=True)
    silent_copy(tree, "net", target)
    with pytest.raises(NotFoundError):
        silent_copy(tree, "net/one/two", scoped, recursive=True)
    with pytest.raises(NotAllowedError, match="net/other"):
        silent_copy(tree, "net/other", scoped)
    silent_copy(tree, "net/one", target, recursive=True)
    target.delete("net/one/two@2", with_tags=True)
    answer = silent_copy(tree, "net/one/two", scoped, recursive=True)
    assert [(one.source, one.reference, one.created) for one in answer.revisions] == [
        ("net/one/two@1", "net/one/two@1", False),
        ("net/one/two@2", "net/one/two@3", True),  # the number of a deleted revision is never given again
    ]


def test_protected_tags_stay_behind_and_are_told(tree: LocalRegistry, target: LocalRegistry, base: Base) -> None:
    target.add_base("net", base.folder)
    target.protect_tag("net", "pr*")
    writer = target.with_principal(Principal("eve", Rights("writer")))
    answer = silent_copy(tree, "net/one", writer, recursive=True)
    assert len([notice for notice in answer.notices if "is protected" in notice]) == 2
    assert _summaries(target)["net/one@1"].tags == ("old",)
    assert _summaries(target)["net/one@2"].tags == ()
    assert silent_copy(tree, "net/one", target, recursive=True).notices == ()
    assert _summaries(target)["net/one@2"].tags == ("prod",)


def _summaries(registry: LocalRegistry) -> dict[str, RevisionSummary]:
    found = {}
    for ref in registry.subtree("net"):
        summary = registry.show(ref).revision
        assert summary is not None
        found[ref] = summary
    return found


def test_an_edited_card_comes_along(tree: LocalRegistry, target: LocalRegistry) -> None:
    text = "---\nlicense: mit\n---\nAnswers tickets.\n"
    tree.set_card("net/one/two", text)
    tree.set_card("net/one", "Of an ancestor, which was not asked for.")
    assert silent_copy(tree, "net/one/two@2", target).notices == ()
    card = target.card("net/one/two")
    assert (card.text, card.metadata) == (text, {"license": "mit"})
    assert card.state is not None
    assert (card.state.source, card.state.edited_by) == ("edited", "bert")
    assert target.card("net/one").state is None
    told = len(target.events())
    assert silent_copy(tree, "net/one/two@2", target).notices == ()
    assert len(target.events()) == told


def test_a_card_that_was_edited_there_stays(tree: LocalRegistry, target: LocalRegistry) -> None:
    silent_copy(tree, "net", target, recursive=True)
    tree.set_card("net/one", "Ours.")
    target.set_card("net/one", "Theirs.")
    answer = silent_copy(tree, "net", target, recursive=True)
    assert [notice for notice in answer.notices if "card" in notice] == [
        f"net/one has an edited card in {target.url}, which was not replaced by that of the source."
    ]
    assert target.card("net/one").text == "Theirs."
    tree.set_card("net/one", None)
    assert silent_copy(tree, "net", target, recursive=True).notices == ()


def test_damaged_bytes_are_not_copied(tree: LocalRegistry, target: LocalRegistry, tmp_path: Path) -> None:
    weights = next(file for file in tree.show("net/other@1").files if file.path == "adapter_model.safetensors")
    blob = next((tmp_path / "source/blobs").rglob(f"{weights.digest.removeprefix('sha256:')}-*"))
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(RegistryError) as refused:
        silent_copy(tree, "net", target, recursive=True)
    assert refused.value.code in {"corrupt", "upload_mismatch"}
    assert "net/other@1" not in target.subtree("net")
    assert target.log("net/one").revisions
