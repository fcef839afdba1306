"""Nested folders and previews: all is checked before the first is published, in process and over HTTP alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UsageError
from registry.operations.methods.calls import Partner
from registry.operations.registry import Registry
from registry.schemas import FolderOutcome
from registry.schemas.transfer import PublishCommit
from registry.services.local import LocalRegistry
from tests.kit import Base, llama_base, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened
from tests.kit.sending import request_of
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

Write = Callable[..., Path]


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", made.folder)
    return made


@pytest.fixture
def write(tmp_path: Path, base: Base) -> Write:
    """Writes an adapter below the folder ``tree``; other names give other values."""

    def made(name: str, **options: object) -> Path:
        seed = sum(name.encode())
        return write_adapter(tmp_path / "tree" / name, base, ["a", "b"], r=2, seed=seed, **options)  # type: ignore[arg-type]

    return made


def states(outcomes: tuple[FolderOutcome, ...]) -> Mapping[str, str]:
    return {outcome.folder: outcome.state for outcome in outcomes}


def spoil(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text("{}")
    return folder


def published(registry: Registry) -> list[str]:
    return [revision.reference for revision in registry.search().revisions]


def test_what_one_publish_leaves_out_nesting_never_enters(registry: Registry, write: Write, tmp_path: Path) -> None:
    for name in ("a", "a/b", "a/checkpoint-10", "a/.old/c", "a/__pycache__/c", "checkpoint-5", ".hidden/x"):
        write(name)
    tree = tmp_path / "tree"
    (tree / "a/docs").mkdir()
    (tree / "a/docs/notes.md").write_text("notes")
    (tree / "logs").mkdir()
    (tree / "logs/run.txt").write_text("run")
    (tree / "linked").symlink_to(tree / "a")
    outcomes = registry.publish_folders(tree, "net")
    skipped = {one.folder: one.message for one in outcomes if one.state == "skipped"}
    assert skipped == {
        "a/checkpoint-10": "trainer checkpoint",
        "a/.old": "hidden",
        "a/__pycache__": "compiled Python",
        "checkpoint-5": "trainer checkpoint",
        ".hidden": "hidden",
        "linked": "symbolic link to a folder",
        "logs": "no adapter in it",
    }
    a, b = (one.published for one in outcomes if one.published is not None)
    assert (a.revision.reference, b.revision.reference) == ("net/a@1", "net/a/b@1")
    assert {one.path: one.reason for one in a.left_out} == {
        "b": "another adapter",
        "checkpoint-10": "trainer checkpoint",
        ".old": "hidden",
        "__pycache__": "compiled Python",
    }
    assert {file.path for file in registry.show("net/a").files} >= {"docs/notes.md"}
    assert published(registry) == ["net/a@1", "net/a/b@1"]
    alone = registry.publish(tree / "a", "net/a")
    assert (alone.created, alone.left_out) == (False, a.left_out)


def test_a_whole_model_beside_the_adapter_is_left_out(registry: Registry, write: Write, base: Base) -> None:
    """As torchtune writes both; what only looks like it is taken."""
    folder = write("a")
    for name in ("model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"):
        (folder / name).write_bytes((base.folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.md").write_text("notes")
    done = registry.publish(folder, "net/a")
    assert {one.path: one.reason for one in done.left_out} == {
        "model-00001-of-00001.safetensors": "whole model",
        "model.safetensors": "whole model",
        "model.safetensors.index.json": "whole model",
    }
    names = {file.path for file in registry.show("net/a").files}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "model.safetensors.md"}


def test_nothing_is_called_given_that_nobody_gave(registry: Registry, write: Write, tmp_path: Path) -> None:
    for name in ("a", "a/b"):
        write(name)
    _, child = registry.publish_tree(tmp_path / "tree", "net")
    assert child.revision.parent == "net/a@1"
    assert child.parent_reason == "assumed from the nesting: it stands for the folder above"


def test_the_nesting_says_which_revision_where_there_are_several(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    write("a")
    registry.publish_tree(tmp_path / "tree", "net")
    write("a", alpha=3)
    registry.publish(tmp_path / "tree/a", "net/a")
    write("a")
    write("a/b")
    answers = registry.publish_tree(tmp_path / "tree", "net")
    assert [(one.revision.reference, one.revision.parent) for one in answers] == [
        ("net/a@1", "net"),
        ("net/a/b@1", "net/a@1"),
    ]


def test_folders_that_hold_only_checkpoints_are_told_so(registry: Registry, write: Write, tmp_path: Path) -> None:
    for name in ("run/checkpoint-10", "run/checkpoint-20", "a", "a/b/checkpoint-3"):
        write(name)
    tree = tmp_path / "tree"
    with pytest.raises(InvalidAdapterError, match=r"run contains only trainer checkpoints: checkpoint-10, ") as one:
        registry.publish_tree(tree / "run", "net")
    assert one.value.code == "checkpoint_folders"
    outcomes = registry.publish_folders(tree, "net", keep_going=True)
    assert states(outcomes) == {"a": "published", "a/b": "refused", "run": "refused"}
    assert {outcome.code for outcome in outcomes if outcome.state == "refused"} == {"checkpoint_folders"}
    with pytest.raises(InvalidAdapterError, match="is one adapter without nested ones; publish it by its path"):
        registry.publish_tree(write("alone").rename(tmp_path / "alone"), "net")


def test_nothing_is_published_where_one_folder_is_bad(registry: Registry, write: Write, tmp_path: Path) -> None:
    for name in ("a", "a/b", "d"):
        write(name)
    spoil(write("a/b/c"))
    write("Old Runs")
    with pytest.raises(UsageError) as refused:
        registry.publish_tree(tmp_path / "tree", "net")
    assert refused.value.code == "bad_name"
    assert str(refused.value).startswith(f"{tmp_path / 'tree' / 'Old Runs'}: Adapter name 'Old Runs' is not allowed: ")
    assert "--rename 'Old Runs=old-runs'" in str(refused.value)
    assert "Nothing was published; a/b/c is refused too (bad_config)" in str(refused.value)
    assert published(registry) == []
    assert {event.action for event in registry.events()} <= {"base add", "token create"}


def test_keep_going_publishes_the_rest_and_reports_what_stands_below_a_bad_one(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    for name in ("a", "a/b", "a/b/c", "a/b/c/d", "e", "group/f"):
        write(name)
    spoil(tmp_path / "tree/a/b")
    told: list[FolderOutcome] = []
    outcomes = registry.publish_folders(tmp_path / "tree", "net", keep_going=True, told=told.append)
    assert tuple(told) == outcomes
    assert states(outcomes) == {
        "a": "published",
        "a/b": "refused",
        "a/b/c": "blocked",
        "a/b/c/d": "blocked",
        "e": "published",
        "group": "refused",
        "group/f": "blocked",
    }
    by_folder = {outcome.folder: outcome for outcome in outcomes}
    assert (by_folder["a/b"].code, by_folder["a/b"].kind) == ("bad_config", "InvalidAdapterError")
    assert by_folder["a/b/c/d"].message == "its parent, the folder a/b, is not published"
    assert by_folder["group"].code == "missing_file"
    assert published(registry) == ["net/a@1", "net/e@1"]


def test_names_are_mapped(registry: Registry, write: Write, tmp_path: Path) -> None:
    for name in ("Old Runs", "Old Runs/v1.5", "b"):
        write(name)
    tree = tmp_path / "tree"
    plan = registry.publish_folders(tree, "net", dry_run=True)
    assert states(plan) == {"Old Runs": "refused", "Old Runs/v1.5": "blocked", "b": "planned"}
    names = {"Old Runs": "old", "Old Runs/v1.5": "v1-5"}
    answers = registry.publish_tree(tree, "net", rename=names)
    assert [one.revision.reference for one in answers] == ["net/old@1", "net/old/v1-5@1", "net/b@1"]
    for wrong, match in (
        ({"Old Runs": "b", "Old Runs/v1.5": "x"}, "net/b is already the path of"),
        ({"v1.5": "x"}, "is not an adapter's folder"),
        ({"b": "B"}, "is not allowed"),
    ):
        with pytest.raises(UsageError, match=match):
            registry.publish_tree(tree, "net", rename=wrong)


def test_a_dry_run_says_what_publishing_does_and_stores_nothing(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    for name in ("a", "a/b", "a/b/c", "d"):
        write(name)
    spoil(tmp_path / "tree/d")
    before = registry.events()
    plan = registry.publish_folders(tmp_path / "tree", "net", dry_run=True)
    assert states(plan) == {"a": "planned", "a/b": "planned", "a/b/c": "planned", "d": "refused"}
    assert registry.events() == before
    previews = [one.preview for one in plan if one.preview is not None]
    assert [one.parent for one in previews] == ["net", "net/a", "net/a/b"]
    assert all(one.bytes_missing == one.size for one in previews)
    done = registry.publish_folders(tmp_path / "tree", "net", keep_going=True)
    answers = [one.published for one in done if one.published is not None]
    assert [one.revision.digest for one in answers] == [one.digest for one in previews]
    assert [one.parent_digest for one in answers] == [one.parent_digest for one in previews]
    assert [one.revision.rank for one in answers] == [one.rank for one in previews]
    again = registry.publish_folders(tmp_path / "tree", "net", dry_run=True)
    assert states(again) == {"a": "existing", "a/b": "existing", "a/b/c": "existing", "d": "refused"}
    assert [one.preview.reference for one in again if one.preview] == ["net/a@1", "net/a/b@1", "net/a/b/c@1"]


def test_a_preview_of_one_folder_is_the_whole_plan(registry: Registry, write: Write, tmp_path: Path) -> None:
    folder = write("a")
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "README.md").write_text("# a")
    preview = registry.preview(folder, "net/a", message="first", metrics={"acc": 0.5}, tags=["prod"])
    assert published(registry) == []
    answer = registry.publish(folder, "net/a", message="first", metrics={"acc": 0.5}, tags=["prod"])
    assert preview.reference is None
    assert (preview.digest, preview.left_out) == (answer.revision.digest, answer.left_out)
    assert (preview.parent, preview.parent_digest, preview.parent_reason) == (
        "net",
        answer.parent_digest,
        answer.parent_reason,
    )
    assert preview.files == registry.show("net/a").files
    assert (preview.bytes_missing, preview.size) == (answer.bytes_stored, answer.revision.size)
    assert preview.notices == answer.revision.notices
    there = registry.preview(folder, "net/a")
    assert (there.reference, there.missing, there.bytes_missing) == ("net/a@1", (), 0)
    assert published(registry) == ["net/a@1"]


def _not_finite(folder: Path) -> Path:
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    name = next(iter(tensors))
    bad = np.full(tensors[name].values.shape, np.nan)
    write_tensors(file, tensors | {name: RawTensor.of(bad, "F32")})
    return folder


def test_a_preview_is_refused_as_the_publish_is(registry: Registry, write: Write, tmp_path: Path) -> None:
    registry.publish(write("one"), "net/one")
    registry.publish(write("two"), "net/one")
    good, nan, broken = write("good"), _not_finite(write("nan")), spoil(write("broken"))
    cases: list[tuple[Path, str, Mapping[str, Any], str]] = [
        (good, "net/one/x", {}, "parent_ambiguous"),
        (good, "net/one/x", {"parent": "net/two@1"}, "parent_mismatch"),
        (good, "net/none/x", {}, "not_found"),
        (good, "other/x", {}, "not_found"),
        (good, "net/X", {}, "bad_name"),
        (good, "net/x", {"tags": ["main"]}, "bad_name"),
        (good, "net/x", {"metrics": {"acc": float("nan")}}, "usage"),
        (nan, "net/x", {}, "non_finite"),
        (broken, "net/x", {}, "bad_config"),
        (tmp_path / "tree", "net/x", {}, "missing_file"),
    ]
    for folder, path, options, code in cases:
        found = []
        for call in (registry.preview, registry.publish):
            with pytest.raises(RegistryError) as refused:
                call(folder, path, **options)
            found.append((type(refused.value), refused.value.code, str(refused.value)))
        assert found[0] == found[1]
        assert found[0][1] == code


def test_what_a_folder_says_of_its_parent_is_held_against_the_nesting(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    registry.publish(write("a"), "net/a")
    merged = registry.fetch("net/a", tmp_path / "merged", kind="merged").folder
    write("a/right", config={"base_model_name_or_path": merged})
    write("b")
    write("b/wrong", config={"base_model_name_or_path": merged})
    write("a/of-the-base", config={"base_model_name_or_path": "net/_"})
    outcomes = registry.publish_folders(tree, "net", keep_going=True)
    assert states(outcomes) == {
        "a": "existing",
        "a/right": "published",
        "a/of-the-base": "refused",
        "b": "published",
        "b/wrong": "refused",
    }
    by_folder = {outcome.folder: outcome for outcome in outcomes}
    right = by_folder["a/right"].published
    assert right is not None
    assert right.parent_reason.startswith(f"the receipt in {merged}, which the adapter was trained on")
    assert right.revision.parent_known_by == "receipt"
    assert by_folder["b/wrong"].code == by_folder["a/of-the-base"].code == "parent_mismatch"


def test_what_was_trained_beside_the_folder_above_is_noticed(registry: Registry, write: Write, tmp_path: Path) -> None:
    """As PEFT saves two adapters of one model: the second lies in the folder of the first."""
    write("a")
    write("a/beside")
    write("a/on-top", config={"base_model_name_or_path": "someone/a-merged"})
    for outcomes in (
        registry.publish_folders(tmp_path / "tree", "net", dry_run=True),
        registry.publish_folders(tmp_path / "tree", "net"),
    ):
        notices = {one.folder: one.notices for one in outcomes}
        assert notices["a"] == notices["a/on-top"] == ()
        (notice,) = notices["a/beside"]
        assert notice.startswith("It says that it was trained on somewhere/base, and so does the folder a above it: ")


def test_a_receipt_of_what_is_only_planned_shows_it(registry: Registry, write: Write, tmp_path: Path) -> None:
    """A tree that was trained in one registry and is published to another one."""
    with_it = LocalRegistry.open(tmp_path / "first", cache_folder=tmp_path / "cache")
    with_it.add_base("net", tmp_path / "base")
    with_it.publish(write("a"), "net/a")
    merged = with_it.fetch("net/a", tmp_path / "merged", kind="merged").folder
    with_it.close()
    write("a/child", config={"base_model_name_or_path": merged})
    write("b/child", config={"base_model_name_or_path": merged})
    write("b")
    plan = registry.publish_folders(tmp_path / "tree", "net", dry_run=True)
    assert states(plan) == {"a": "planned", "a/child": "planned", "b": "planned", "b/child": "refused"}
    assert "the receipt in" in [one.preview.parent_reason for one in plan if one.preview][1]
    assert {one.code for one in plan if one.state == "refused"} == {"parent_mismatch"}


def test_copies_of_a_parent_that_is_only_planned_are_compared(tmp_path: Path) -> None:
    made = llama_base(tmp_path / "base", layers=1)
    targets = ["embed_tokens", "q_proj"]
    tree = tmp_path / "tree"
    parent = write_adapter(tree / "a", made, targets, copies=[], seed=1)
    write_adapter(tree / "a/right", made, targets, copies=[parent], seed=2)
    write_adapter(tree / "a/wrong", made, targets, copies=[], seed=3)
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    opened.add_base("llama", made.folder)
    plan = opened.publish_folders(tree, "llama", dry_run=True)
    assert states(plan) == {"a": "planned", "a/right": "planned", "a/wrong": "refused"}
    assert {one.code for one in plan if one.state == "refused"} == {"lineage_mismatch"}
    with pytest.raises(InvalidAdapterError, match="Nothing was published"):
        opened.publish_tree(tree, "llama")
    assert opened.search().revisions == ()
    opened.close()


def test_a_parent_that_went_meanwhile_is_not_replaced(registry: Registry, write: Write) -> None:
    registry.publish(write("a"), "net/a")
    above = f"net/a@sha256:{'0' * 64}"
    made = request_of(write("b"), "net/a/b", parent=above, nested=True)
    assert isinstance(registry, Partner)
    with pytest.raises(NotFoundError, match="net/a"):
        registry.commit_publish(PublishCommit(request=made.request, uploads={}))
