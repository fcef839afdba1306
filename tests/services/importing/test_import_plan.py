"""Plans of imports: every parent right, nothing guessed, nothing changed; and applying them does exactly that."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, NotFoundError, UsageError
from registry.operations.registry import Registry
from registry.schemas import FolderCompared, RevisionSummary
from registry.schemas.publishing import ImportDocument, ImportEntry
from registry.services.importing.names import says_copy
from registry.services.importing.placed import Settled
from registry.services.importing.placing import Settling
from registry.services.local import LocalRegistry
from registry.services.publishing.identify import search_trained
from registry.services.publishing.parent_folder import Held, compare_whole
from registry.services.publishing.port import Port
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.transfer.trained_on import TrainedFolder
from tests.kit import plain_base
from tests.kit.serving import ServedRegistry
from tests.services.importing.plain_heap import PlainHeap, state_of
from tests.services.publishing.parent_house import SHAPES, WEIGHTS, opened

Kind = pytest.param("over HTTP", marks=pytest.mark.slow)


def open_as(kind: str, folder: Path) -> Registry:
    local = opened(folder)
    if kind == "in process":
        return local
    return ServedRegistry(local, folder / "client")


@pytest.fixture
def team(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(opened(tmp_path)) as registry:
        yield registry


@pytest.fixture
def heap(tmp_path: Path) -> PlainHeap:
    return PlainHeap(tmp_path / "heap").fill()


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainHeap, ImportDocument]:
    """A heap and its plan; who changes files restores them."""
    folder = tmp_path_factory.mktemp("share")
    heap = PlainHeap(folder / "heap").fill()
    with closing(opened(folder)) as registry:
        return heap, registry.plan_import(heap.folder).document


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """An empty registry, which stays so."""
    with closing(opened(tmp_path_factory.mktemp("idle"))) as registry:
        yield registry
        assert registry.bases() == ()


@contextmanager
def changed(*files: Path) -> Iterator[None]:
    """Files that may be changed, added or removed meanwhile."""
    before = {file: file.read_bytes() if file.is_file() else None for file in files}
    yield
    for file, data in before.items():
        if data is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(data)


def edited(document: ImportDocument, **changes: dict[str, object]) -> ImportDocument:
    """A plan with other fields of the entries of some folders."""
    entries = [one.model_copy(update=changes.get(one.folder[2:], {})) for one in document.entries]
    return document.model_copy(update={"entries": tuple(entries)})


def planned(entries: tuple[ImportEntry, ...]) -> dict[str, tuple[str, str | None, str | None]]:
    return {one.folder: (one.action, one.name, one.parent) for one in entries if one.action in ("add", "publish")}


TREE = {
    "./net": ("add", "net", None),
    "./support": ("publish", "support", "./net"),
    "./legal": ("publish", "legal", "./net"),
    "./french": ("publish", "french", "./support"),
    "./paris": ("publish", "paris", "./french"),
}


@pytest.mark.parametrize("kind", ["in process", Kind])
def test_a_heap_comes_in_with_every_parent_proven(tmp_path: Path, kind: str) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    heap.checkpoints("stopped", heap.base.folder, best=10)
    heap.rubbish()
    with closing(open_as(kind, tmp_path)) as team:
        before = state_of(heap.folder)
        plan = team.plan_import(heap.folder)
        assert state_of(heap.folder) == before
        assert (team.bases(), team.search().revisions) == ((), ())
        entries = {one.folder: one for one in plan.entries}
        assert planned(plan.entries) == {**TREE, "./stopped/checkpoint-10": ("publish", "stopped", "./net")}
        assert "equal in 4 of 4 tensors" in (entries["./paris"].proof or "")
        assert entries["./merged-2"].action == "skip"
        assert "it is ./french: equal in 4 of 4 tensors" in (entries["./merged-2"].reason or "")
        assert entries["./stopped/checkpoint-10"].metrics == {"eval_loss": 1.5, "train_loss": 2.0}
        assert entries["./stopped/checkpoint-10"].annotations == {"trainer": "transformers Trainer", "step": "10"}
        assert "checkpoint-10 is taken: the best one" in (entries["./stopped/checkpoint-20"].reason or "")
        assert {one.folder: one.code for one in plan.entries if one.action == "refused"} == {
            "./mlx": "missing_file",
            "./broken": "bad_safetensors",
        }
        assert {one.what for one in plan.entries if one.action == "skip"} >= {"DeepSpeed state", "link"}

        outcomes = plan.apply()
        assert {one.state for one in outcomes} == {"published"}
        paris = revision_of(team, "net/support/french/paris@1")
        assert (paris.parent, paris.parent_known_by) == ("net/support/french@1", "compared")
        assert team.search(path="net/stopped").revisions[0].metrics["eval_loss"] == 1.5
        revisions = team.search(all_revisions=True).revisions
        assert {one.state for one in plan.apply()} == {"existing"}
        assert team.search(all_revisions=True).revisions == revisions
        assert planned(team.plan_import(heap.folder).entries) == {}


def test_what_the_registry_has_is_a_parent_too(tmp_path: Path, team: LocalRegistry) -> None:
    """The base model and support are only there: a child of a merge of both, and its child, find them."""
    whole = PlainHeap(tmp_path / "whole").fill()
    team.add_base("acme", whole.base.folder)
    team.publish(whole.helper, "acme/help")
    team.publish(whole.near("older", whole.helper, 0.3), "acme/help")
    heap = tmp_path / "heap"
    for name in ("merged-1", "french", "merged-2", "paris"):
        shutil.move(whole.folder / name, heap / name)
        config = heap / name / "adapter_config.json"
        if config.is_file():
            config.write_text(config.read_text().replace(str(whole.folder), str(heap)))
    shutil.rmtree(whole.folder)
    plan = team.plan_import(heap)
    assert planned(plan.entries) == {
        "./french": ("publish", "french", "acme/help@1"),
        "./paris": ("publish", "paris", "./french"),
    }
    plan.apply()
    assert revision_of(team, "acme/help/french/paris").parent == "acme/help/french@1"


@pytest.mark.slow
def test_a_retracted_revision_is_no_parent(tmp_path: Path, team: LocalRegistry) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    team.add_base("net", heap.base.folder)
    team.publish(heap.helper, "net/help")
    team.retract("net/help@1", reason="leaked")
    for folder in (heap.helper, heap.on_french):
        shutil.rmtree(folder)
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert (entries["./merged-1"].action, entries["./merged-1"].code) == ("refused", "retracted")
    assert entries["./french"].action == "undecided"
    assert "leaked" in (entries["./french"].reason or "")


@pytest.mark.slow
def test_names_of_the_registry_are_not_taken_again(heap: PlainHeap, team: LocalRegistry, tmp_path: Path) -> None:
    other = PlainHeap(tmp_path / "other", base="net")
    team.add_base("net", other.save("far", {name: -one for name, one in other.values(other.base.folder).items()}))
    assert planned(team.plan_import(heap.folder).entries)["./net"] == ("add", "net-2", None)


def test_the_base_is_the_model_that_the_others_are_made_of(tmp_path: Path, team: LocalRegistry) -> None:
    """A merge that is named by most and is older than the base model is none."""
    heap = PlainHeap(tmp_path / "heap", base="z-net").fill()
    for name in ("more", "still-more"):
        heap.run(name, heap.on_support, seed=len(name))
    os.utime(heap.on_support / "model.safetensors", (1, 1))
    found = planned(team.plan_import(heap.folder).entries)
    assert found["./z-net"] == ("add", "z-net", None)
    assert found["./more"] == ("publish", "more", "./support")


@pytest.mark.slow
@pytest.mark.usefixtures("real_times")
def test_a_folder_that_was_overwritten_since_leaves_its_adapter_undecided(heap: PlainHeap, team: LocalRegistry) -> None:
    """And what is older proves its parent, as in a heap that was copied with its times."""
    then = time.time() - 40 * 86_400
    for days, place in enumerate(
        (heap.base.folder, heap.helper, heap.on_support, heap.french, heap.on_french, heap.paris)
    ):
        for file in place.iterdir():
            os.utime(file, (then + days * 86_400,) * 2)
    plan = team.plan_import(heap.folder)
    assert (planned(plan.entries), plan.document.notices) == (TREE, ())
    for file in heap.on_support.iterdir():  # a month later, whatever it held before
        os.utime(file)
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert (entries["./french"].action, entries["./french"].code) == ("undecided", "parent_ambiguous")
    assert "is newer than the adapter" in (entries["./french"].reason or "")
    assert [one.parent for one in entries["./french"].candidates] == ["./support"]


@pytest.mark.usefixtures("real_times")
def test_a_heap_without_times_is_stated_and_says_so_once(
    share: tuple[PlainHeap, ImportDocument], team: LocalRegistry
) -> None:
    plan = team.plan_import(share[0].folder)
    assert planned(plan.entries) == TREE
    assert [("written in one go" in one, "compared_untimed" in one) for one in plan.document.notices] == [(True, True)]
    assert {one.state for one in plan.apply()} == {"published"}
    words = {one.path: one.parent_known_by for one in team.search().revisions}
    assert words["net/support/french/paris"] == "compared_untimed"


def test_what_was_trained_on_a_folder_that_is_gone_is_undecided(heap: PlainHeap, team: LocalRegistry) -> None:
    heap.run("lost", "/nowhere/merged-1", seed=7)
    entry = next(one for one in team.plan_import(heap.folder).entries if one.folder == "./lost")
    assert (entry.action, entry.code) == ("undecided", "parent_ambiguous")
    assert [one.parent for one in entry.candidates] == ["./merged-1", "./net"]


@pytest.mark.slow
def test_a_heap_that_was_moved_is_still_known(heap: PlainHeap, team: LocalRegistry, tmp_path: Path) -> None:
    shutil.move(heap.folder, tmp_path / "elsewhere")
    assert planned(team.plan_import(tmp_path / "elsewhere").entries) == TREE


@pytest.mark.slow
def test_two_orders_of_the_same_sums_are_undecided(heap: PlainHeap, team: LocalRegistry) -> None:
    """In float32 the merges of two chains are equal: which one it was, nothing shows."""
    first, second = heap.run("first", heap.base.folder, seed=11), heap.run("second", heap.base.folder, seed=12)
    for above, below in ((first, second), (second, first)):
        again = heap.folder / f"{below.name}-again"
        shutil.copytree(below, again)
        config = json.loads((again / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(heap.merged(f"on-{above.name}", [above]))
        (again / "adapter_config.json").write_text(json.dumps(config))
    heap.run("child", heap.merged("both", [first, second], "F32"), seed=13)
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert entries["./second-again"].parent == "./first"
    assert entries["./child"].action == "undecided"
    assert {one.parent for one in entries["./child"].candidates} == {"./second-again", "./first-again"}


def test_what_equals_a_model_that_was_explained_earlier_is_noticed(heap: PlainHeap, team: LocalRegistry) -> None:
    """A chain of three is the sum of a chain of two: one link less is found one round earlier."""
    first = heap.run("first", heap.base.folder, seed=11)
    second = heap.run("second", heap.stepwise("on-first", [first], "F32"), seed=12)
    one, other = heap.halves(first)
    heap.trained_on(one, heap.base.folder)
    again = heap.trained_on(shutil.copytree(second, heap.folder / "again"), heap.stepwise("on-one", [one], "F32"))
    heap.trained_on(other, heap.stepwise("on-again", [one, again], "F32"))
    heap.run("child", heap.merged("both", [first, second], "F32"), seed=13)
    heap.run("zero", heap.folder / "both", seed=14, size=0.0)
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert entries[f"./{other.name}"].parent == "./again"
    assert entries["./child"].action == entries["./zero"].action == "undecided"
    assert {one.parent for one in entries["./child"].candidates} == {"./second", f"./{other.name}"}


def test_what_was_never_trained_makes_no_parent_ambiguous(heap: PlainHeap, team: LocalRegistry) -> None:
    """A path that it ends stands for the same function as the one above it, which is the parent then."""
    for name, seed in (("killed", 13), ("untrained", 14)):
        heap.run(name, heap.base.folder, seed=seed, size=0.0)
    heap.run("on-a-copy", heap.merged("net-fp32", [], "F32"), seed=16)
    heap.run("zero", heap.on_french, seed=17, size=0.0)
    heap.run("on-zero", heap.merged("more", [heap.helper, heap.french, heap.folder / "zero"], "F32"), seed=15)
    plan = team.plan_import(heap.folder)
    parents = {one.folder: one.parent for one in plan.entries if one.action == "publish"}
    assert parents["./on-a-copy"] == parents["./killed"] == parents["./untrained"] == "./net"
    assert parents["./paris"] == parents["./zero"] == parents["./on-zero"] == "./french"
    assert {one.state for one in plan.apply()} == {"published"}


def test_copies_take_neither_names_nor_what_was_trained_on_the_original(heap: PlainHeap, team: LocalRegistry) -> None:
    """What others were trained on gives the name; and what was trained on a copy goes where the original is."""
    heap.run("on-support", heap.helper, seed=21)
    for original, copy in ((heap.helper, "a/Support Copy"), (heap.on_support, "a/m"), (heap.base.folder, "a/net old")):
        shutil.copytree(original, heap.folder / "backup" / copy)
    heap.run("french-2", heap.folder / "backup/a/m", seed=22)
    heap.run("on-support-2", heap.folder / "backup/a/Support Copy", seed=23)
    plan = team.plan_import(heap.folder)
    more = {
        "./on-support": ("publish", "on-support", "./support"),
        "./french-2": ("publish", "french-2", "./support"),
        "./on-support-2": ("publish", "on-support-2", "./support"),
    }
    assert planned(plan.entries) == TREE | more
    skipped = {one.folder: one.reason for one in plan.entries if one.folder.startswith("./backup")}
    assert skipped == {
        "./backup/a/Support Copy": "it has the same files as ./support",
        "./backup/a/m": "it has the same weights as ./merged-1",
        "./backup/a/net old": "it has the same weights as ./net",
    }
    assert {one.state for one in plan.apply()} == {"published"}


@pytest.mark.parametrize(
    ("place", "copied"),
    [
        ("./backup/support", True), ("./runs/Support Copy", True), ("./support_old", True), ("./support.bak", True),
        ("./copy of support", True), ("./support (2)", True), ("./old2/x", True), ("./archive/x", True),
        ("./support", False), ("./household", False), ("./copywriter", False), ("./gold", False), ("./v2", False),
    ],
)  # fmt: skip
def test_names_that_say_that_a_folder_is_a_copy(place: str, *, copied: bool) -> None:
    assert says_copy(place) is copied


def test_what_has_changed_since_is_refused(share: tuple[PlainHeap, ImportDocument], team: LocalRegistry) -> None:
    heap, plan = share
    config, extra = heap.french / "adapter_config.json", heap.on_support / "extra.txt"
    with changed(config, extra):
        config.write_text(config.read_text() + "\n")
        extra.write_text("new, and not of the model")
        found = {one.folder: (one.state, one.code) for one in team.apply_import(plan)}
    assert found["./french"] == ("refused", "changed_since")
    assert found["./paris"] == ("blocked", None)
    assert found["./legal"] == ("published", None)

    with changed(heap.on_french / WEIGHTS):
        heap.stepwise("merged-2", [heap.helper])
        done = {one.folder: one for one in team.apply_import(plan)}
    assert (done["./french"].state, done["./paris"].state) == ("published", "refused")
    assert done["./paris"].code == "changed_since"
    assert "./merged-2 is not what the plan saw: model.safetensors has changed" in (done["./paris"].message or "")


def test_a_proof_is_made_again_whatever_a_plan_says(
    share: tuple[PlainHeap, ImportDocument], team: LocalRegistry
) -> None:
    _, plan = share
    for said in ({}, {"proof": None}):
        outcomes = team.apply_import(edited(plan, french={"parent": "./legal", **said}))
        refused = {one.folder: one.code for one in outcomes if one.state in ("refused", "blocked")}
        assert refused.pop("./french") in {"parent_mismatch", "parent_unproven"}
        assert refused == {"./paris": None}


@pytest.mark.slow
def test_names_and_parents_may_be_edited(heap: PlainHeap, team: LocalRegistry, tmp_path: Path) -> None:
    team.plan_import(heap.folder).write(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"name": "support"', '"name": "help"'))
    paths = [one.path for one in team.apply_import(tmp_path / "plan.json")]
    assert "net/help/french/paris" in paths
    with pytest.raises(ConflictError) as refused:
        team.plan_import(heap.folder).write(tmp_path / "plan.json")
    assert refused.value.code == "folder_taken"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"net": {"action": "take"}}, "action of ./net: Input should be 'add'"),
        ({"support": {"nmae": "x"}}, "nmae of ./support: Extra inputs are not permitted"),
        ({"support": {"name": "Support"}}, "./support in the plan: .*capital letters are not used"),
        ({"french": {"parent": "./suport"}}, "is ./suport, which is no folder of the plan: give"),
        ({"support": {"parent": "./french"}}, "go in a circle"),
        ({"net": {"action": "skip"}}, "whose action is skip: it is not brought in"),
        (
            {"support": {"name": "legal"}},
            r"brings ./(legal|support) and ./\w+ both to net/legal: .* as revisions of one",
        ),
        ({"french": {"parent": "./net", "name": "legal"}}, "both to net/legal"),
        ({"merged-1": {"action": "add", "name": "net"}}, "both to net: give one of them another name, or skip it.$"),
        ({"legal": {"action": "add"}}, r"says to add ./legal \(adapter\): publish"),
        ({"legal": {"rank": 2}}, "a rank or max_error for ./legal, whose action is publish: they are for full"),
        (
            {"merged-1": {"action": "full", "name": "m", "parent": "./net", "rank": 0}},
            "./merged-1 in the plan: --rank must be 1 or more",
        ),
        (
            {
                "merged-1": {"action": "full", "name": "m", "parent": "./net", "rank": 2},
                "french": {"parent": "./merged-1"},
            },
            "./french was trained on ./merged-1, and the plan says to make an adapter of that one",
        ),
    ],
)
def test_a_plan_that_can_not_be_done_does_nothing(
    share: tuple[PlainHeap, ImportDocument],
    idle: LocalRegistry,
    tmp_path: Path,
    changes: dict[str, dict[str, object]],
    said: str,
) -> None:
    plan = share[1].model_dump(mode="json")
    for entry in plan["entries"]:
        entry.update(changes.get(entry["folder"][2:], {}))
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=said):
        idle.apply_import(tmp_path / "plan.json")


@pytest.mark.slow
def test_an_adapter_that_was_trained_on_another_one_goes_below_it(heap: PlainHeap, team: LocalRegistry) -> None:
    heap.run("on-legal", heap.legal, seed=21)
    heap.run("on-lost", heap.run("lost", "/nowhere/at-all", seed=23), seed=22)
    plan = team.plan_import(heap.folder)
    entries = {one.folder: one for one in plan.entries}
    assert entries["./on-legal"].parent == "./legal"
    assert "it holds the adapter of that revision" in (entries["./on-legal"].proof or "")
    assert entries["./on-lost"].action == "undecided"
    assert {one.state for one in plan.apply()} == {"published"}


@pytest.mark.slow
def test_exports_come_back_by_their_receipts(heap: PlainHeap, team: LocalRegistry, tmp_path: Path) -> None:
    """They have a card now, so that they are new revisions; what they go on is in the registry."""
    team.plan_import(heap.folder).apply()
    for name, path in (("x", "net/support"), ("a", "net/support/french")):
        team.export(path, tmp_path / "back" / name, kind="published")
    plan = team.plan_import(tmp_path / "back")
    assert planned(plan.entries) == {"./x": ("publish", "x", "net"), "./a": ("publish", "a", "net/support@1")}
    assert {one.state for one in plan.apply()} == {"published"}
    assert revision_of(team, "net/support/a").parent_known_by == "receipt"


def test_a_cache_of_the_hub_is_looked_into(tmp_path: Path, team: LocalRegistry) -> None:
    """Its files are links into blobs; an adapter names the repository."""
    heap = PlainHeap(tmp_path / "made")
    commit, repo = "a" * 40, tmp_path / "heap/hub/models--acme--net"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    for file in heap.base.folder.iterdir():
        shutil.copy(file, repo / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    shutil.move(heap.run("support", "acme/net", seed=1), tmp_path / "heap/support")
    plan = team.plan_import(tmp_path / "heap")
    place = f"./hub/models--acme--net/snapshots/{commit}"
    assert planned(plan.entries) == {
        place: ("add", "net", None),
        "./support": ("publish", "support", place),
    }
    assert {one.state for one in plan.apply()} == {"published"}


def test_a_name_of_the_hub_is_one_question_and_one_answer(heap: PlainHeap, team: LocalRegistry, tmp_path: Path) -> None:
    """Adapters name the repository of a base model that is here as a folder: the answer brings all of them in."""
    for name, repo_id in (
        ("one", "acme/net"),
        ("two", "acme/net"),
        ("three", "acme/net-4bit"),
        ("four", "/gone/net-2"),
    ):
        heap.run(name, repo_id, seed=50 + len(name) + ord(name[0]))
    plan = team.plan_import(heap.folder)
    asked = {one.repo_id: (one.base, one.candidates, one.folders) for one in plan.document.questions}
    assert asked == {
        "acme/net": (None, ("./net",), ("./one", "./two")),
        "acme/net-4bit": (None, ("./net",), ("./three",)),
    }
    entries = {one.folder: one for one in plan.entries}
    assert "Answer the question at the top" in (entries["./one"].reason or "")
    assert entries["./four"].action == "undecided"
    plan.write(tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    next(one for one in document["questions"] if one["repo_id"] == "acme/net")["base"] = "./net"
    (tmp_path / "plan.json").write_text(json.dumps(document))
    done = {one.folder: one for one in team.apply_import(tmp_path / "plan.json")}
    assert {done[place].path for place in ("./one", "./two")} == {"net/one", "net/two"}
    assert {one.state for one in done.values()} == {"published"}
    assert "./three" not in done
    assert revision_of(team, "net/one").parent_known_by == "given"
    assert [one.also_known_as for one in team.bases()] == [("acme/net",)]
    heap.run("five", "acme/net", seed=70)  # which the registry knows from now on
    again = team.plan_import(heap.folder)
    assert planned(again.entries) == {"./five": ("publish", "five", "net")}
    assert [one.repo_id for one in again.document.questions] == ["acme/net-4bit"]
    document["questions"][1]["base"] = "./nett"
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"is \./nett, which is no folder of the plan"):
        team.apply_import(tmp_path / "plan.json")


def test_an_adapter_its_base_and_its_merged_folder_place_each_other(heap: PlainHeap, team: LocalRegistry) -> None:
    """As axolotl leaves them: the adapter names a repository that is not here. What was trained on the merge has it."""
    heap.save("other", {name: -one for name, one in heap.values(heap.base.folder).items()})
    out = heap.run("out", "acme/tiny", seed=61)
    shutil.move(heap.stepwise("out-merged", [out]), out / "merged")
    heap.run("on-merged", out / "merged", seed=62)
    heap.run("unmerged", "acme/tiny", seed=63)
    heap.run("never-trained", "acme/tiny", seed=64, size=0.0)
    plan = team.plan_import(heap.folder)
    entries = {one.folder: one for one in plan.entries}
    assert planned(plan.entries) == TREE | {
        "./other": ("add", "other", None),
        "./out": ("publish", "out", "./net"),
        "./on-merged": ("publish", "on-merged", "./out"),
    }
    assert (entries["./out"].proof, entries["./out"].parent_known_by) == (None, "assumed")
    assert "./out/merged is ./net with this adapter merged into it: equal in 4" in (entries["./out"].reason or "")
    assert entries["./out/merged"].what == "merged model"
    assert entries["./on-merged"].parent_known_by == "compared"
    assert [one.folders for one in plan.document.questions] == [("./never-trained", "./unmerged")]
    _only_stated(heap.folder.parent / "strict", plan.document)
    assert {one.state for one in plan.apply()} == {"published"}
    assert revision_of(team, "net/out").parent_known_by == "assumed"
    assert revision_of(team, "net/out/on-merged").parent_known_by == "compared"


def _only_stated(folder: Path, plan: ImportDocument) -> None:
    """A registry that takes no assumed parents says what to do in the plan, and takes a person's word."""
    outs = tuple(one for one in plan.entries if one.folder in ("./net", "./out"))
    plan = plan.model_copy(update={"entries": outs, "questions": ()})
    with closing(LocalRegistry.open(folder, create=True, parents="stated")) as strict:
        refused = next(one for one in strict.apply_import(plan) if one.folder == "./out")
        assert (refused.state, refused.code) == ("refused", "parent_unproven")
        assert 'set its parent_known_by to "given" in the plan' in (refused.message or "")
        given = edited(plan, out={"parent_known_by": "given"})
        assert [one.state for one in strict.apply_import(given)] == ["existing", "published"]
        assert revision_of(strict, "net/out").parent_known_by == "given"


@pytest.mark.slow
def test_a_checkpoint_that_a_model_is_made_of_comes_in(heap: PlainHeap, team: LocalRegistry) -> None:
    """Of its run another one is taken; what was trained on its merge has it for its parent."""
    run = heap.checkpoints("stopped", heap.base.folder, best=10)
    heap.run("on-20", heap.stepwise("merged-20", [run / "checkpoint-20"]), seed=91)
    heap.checkpoints("other", heap.on_support, best=10)
    plan = team.plan_import(heap.folder)
    names = planned(plan.entries)
    assert names["./stopped/checkpoint-10"] == ("publish", "stopped", "./net")
    assert names["./stopped/checkpoint-20"] == ("publish", "stopped-2", "./net")
    assert names["./on-20"] == ("publish", "on-20", "./stopped/checkpoint-20")
    assert "./other/checkpoint-20" not in names
    assert len([one for one in plan.entries if one.folder == "./stopped/checkpoint-20"]) == 1
    assert {one.state for one in plan.apply()} == {"published"}


def test_a_heap_is_settled_once_where_a_model_has_other_norms(
    heap: PlainHeap, team: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging leaves norms alone: a full fine-tune that adapters were trained on is not tried as the base model."""
    runs, run = list[int](), Settling.run

    def counted(self: Settling, order: list[str], roots: int | None = None) -> Settled:
        runs.append(len(order))
        return run(self, order, roots)

    monkeypatch.setattr(Settling, "run", counted)
    heap.run("on-tuned", heap.tuned("tuned"), seed=81)
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert (entries["./tuned"].action, entries["./on-tuned"].parent) == ("full", "./tuned")
    assert runs == [4]


def test_a_folder_is_compared_with_the_same_paths_once(
    heap: PlainHeap, team: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is searched for, as more is published, and in whatever order models are tried as the first."""
    seen, whole, searched = list[tuple[object, ...]](), compare_whole, list[str]()

    def counted(blobs: Blobs, paths: Sequence[LoadedPath], held: Held, *more: Any) -> Any:
        folder = next(iter(held.values()))[0]
        seen.append((vars(folder)["_path"], *((one.reference, one.tip) for one in paths)))
        return whole(blobs, paths, held, *more)

    def told(where: Port, folder: TrainedFolder, *more: Any) -> FolderCompared:
        searched.append(folder.words)
        return search_trained(where, folder, *more)

    monkeypatch.setattr("registry.services.publishing.parent_search.compare_whole", counted)
    monkeypatch.setattr("registry.services.importing.placing.search_trained", told)
    heap.run("on-lost", heap.stepwise("lost", [heap.halves(heap.legal)[0]]), seed=82)
    heap.run("merged-twice", "acme/net", seed=83)
    assert planned(team.plan_import(heap.folder).entries)["./paris"][2] == "./french"
    assert searched.count("./lost") > 1
    assert len(seen) == len(set(seen))


def test_a_base_model_that_is_taken_later_explains_its_copy(tmp_path: Path, team: LocalRegistry) -> None:
    """Nothing was trained on either; the copy is of another dtype."""
    heap = PlainHeap(tmp_path / "heap")
    other = plain_base(heap.folder / "other", dtype="BF16", shapes=SHAPES, seed=7)
    heap.save("a-copy", heap.values(other.folder), "F32")
    for later, name in enumerate(("net", "other", "a-copy")):
        os.utime(heap.folder / name / WEIGHTS, (10**9 + later, 10**9 + later))
    entries = {one.folder: one for one in team.plan_import(heap.folder).entries}
    assert [entries[f"./{name}"].action for name in ("net", "other", "a-copy")] == ["add", "add", "skip"]


def test_there_must_be_a_folder(idle: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no folder"):
        idle.plan_import(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is empty text"):
        idle.plan_import("")
    assert idle.plan_import(tmp_path).entries == ()


def revision_of(team: Registry, reference: str) -> RevisionSummary:
    found = team.show(reference).revision
    assert found is not None
    return found
