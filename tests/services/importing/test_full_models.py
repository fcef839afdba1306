"""Full fine-tunes in plans of imports: what is one, where it goes, and what was trained on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.schemas.publishing import ImportEntry
from registry.services.exact.figures import Apart
from registry.services.importing.placed import began_at
from registry.services.local import LocalRegistry
from tests.kit import llama_base, read_model, write_adapter
from tests.kit.fine_tunes import fine_tuned
from tests.kit.floats import Array
from tests.services.importing.plain_heap import PlainHeap
from tests.services.importing.test_import_plan import Kind, edited, open_as, planned, revision_of
from tests.services.publishing.parent_house import WEIGHTS, opened


@pytest.fixture
def team(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(opened(tmp_path)) as registry:
        yield registry


def moved(heap: PlainHeap, name: str, start: Path, size: float, seed: int = 3) -> Path:
    """A model at about this distance from another one, relative to its norm."""
    random = np.random.default_rng(seed)

    def near(values: Array) -> Array:
        noise: Array = size * np.sqrt(np.mean(values**2)) * random.standard_normal(values.shape)
        return values + noise

    return heap.save(name, {tensor: near(values) for tensor, values in heap.values(start).items()})


@pytest.mark.long_on("over HTTP")
@pytest.mark.parametrize("kind", ["in process", Kind])
def test_it_is_kept_exactly_and_what_stands_on_it_is_proven(tmp_path: Path, kind: str) -> None:
    """Also what was trained on a merge of it, and another full fine-tune that started there."""
    heap = PlainHeap(tmp_path / "heap")
    tuned = heap.tuned("Tuned, 2nd try")
    (tuned / "training_args.bin").touch()
    on_tuned, before, after = heap.run("on-tuned", tuned, seed=7), heap.values(heap.base.folder), heap.values(tuned)
    delta = {name: one.values - before[name] for name, one in heap.base.reference([on_tuned]).items()}
    heap.run("deeper", heap.save("over", {name: one + delta[name] for name, one in after.items()}), seed=8)
    moved(heap, "preferred", tuned, 0.04)
    with closing(open_as(kind, tmp_path)) as team:
        plan = team.plan_import(heap.folder)
        assert planned(plan.entries) == {
            "./net": ("add", "net", None),
            "./on-tuned": ("publish", "on-tuned", "./Tuned, 2nd try"),
            "./deeper": ("publish", "deeper", "./on-tuned"),
        }
        entries = {one.folder: one for one in plan.entries}
        full = {one.folder: (one.name, one.parent, one.proof) for one in plan.entries if one.action == "full"}
        assert full == {
            "./Tuned, 2nd try": ("tuned-2nd-try", "./net", None),
            "./preferred": ("preferred", "./Tuned, 2nd try", None),
        }
        takes = entries["./Tuned, 2nd try"].takes
        assert takes is not None
        apart = np.sqrt(sum(np.sum((after[name] - before[name]) ** 2) for name in before))
        assert takes.distance == pytest.approx(apart / np.sqrt(sum(np.sum(one**2) for one in before.values())), rel=0.1)
        assert (takes.base, takes.tensors, takes.of) == ("./net", 4, 4)
        assert takes.size == sum(2 * one.size for one in before.values())

        assert {one.state for one in plan.apply()} == {"published"}
        kept = next(one.size for one in team.show("net/tuned-2nd-try").files if one.path == "model.exact")
        assert takes.stored == pytest.approx(kept, rel=0.25)  # it has no index
        assert (revision_of(team, "net/tuned-2nd-try").parent_known_by) == "given"
        deeper = revision_of(team, "net/tuned-2nd-try/on-tuned/deeper")
        assert (deeper.parent, deeper.parent_known_by) == ("net/tuned-2nd-try/on-tuned@1", "compared")
        assert revision_of(team, "net/tuned-2nd-try/preferred").parent == "net/tuned-2nd-try@1"
        team.fetch("net/tuned-2nd-try", tmp_path / "out", kind="merged")
        assert read_model(tmp_path / "out") == read_model(tuned)
        assert {one.state for one in plan.apply()} == {"existing"}
        again = {one.folder: one for one in team.plan_import(heap.folder).entries}
        assert {one.action for one in again.values()} == {"skip"}
        assert "it is net/tuned-2nd-try@1: equal" in (again["./Tuned, 2nd try"].reason or "")


def test_it_may_become_an_adapter_a_base_model_or_nothing(tmp_path: Path, team: LocalRegistry) -> None:
    heap = PlainHeap(tmp_path / "heap")
    tuned = heap.tuned("tuned")
    (tuned / "trainer_state.json").write_text('{"global_step": 20, "log_history": [{"eval_loss": 1.5}]}')
    heap.run("on-tuned", tuned, seed=7)
    plan = team.plan_import(heap.folder).document
    assert [(one.folder, one.action) for one in plan.entries] == [
        ("./net", "add"),
        ("./tuned", "full"),
        ("./on-tuned", "publish"),
    ]
    assert plan.entries[1].metrics == {"eval_loss": 1.5}
    assert plan.entries[1].annotations["step"] == "20"

    skipped: dict[str, object] = {"action": "skip"}
    outcomes = team.apply_import(edited(plan, tuned={"rank": 2}, **{"on-tuned": skipped}))
    assert [one.path for one in outcomes] == ["net", "net/tuned"]
    found = team.show("net/tuned").revision
    assert found is not None
    assert (found.rank, found.annotations["step"]) == (2, "20")
    team.apply_import(edited(plan, tuned=skipped, **{"on-tuned": skipped}))
    assert len(team.search(all_revisions=True).revisions) == 1
    outcomes = team.apply_import(edited(plan, tuned={"action": "add"}))
    assert [(one.path, one.state) for one in outcomes][1:] == [("tuned", "published"), ("tuned/on-tuned", "published")]
    (tuned / WEIGHTS).write_bytes((heap.base.folder / WEIGHTS).read_bytes())
    outcomes = team.apply_import(plan)
    assert [(one.state, one.code) for one in outcomes][1:] == [("refused", "changed_since"), ("blocked", None)]


def test_where_it_is_not_clear_it_is_undecided_with_the_choices(tmp_path: Path, team: LocalRegistry) -> None:
    heap = PlainHeap(tmp_path / "heap", base="a")
    a = heap.base.folder
    moved(heap, "b", a, 0.02)

    def entries() -> dict[str, ImportEntry]:
        return {one.folder: one for one in team.plan_import(heap.folder).entries}

    found = entries()["./b"]
    assert (found.action, found.name, found.parent, found.what) == ("undecided", "b", "./a", "model")
    assert "nothing shows which of the two was trained from the other. Set action to full" in (found.reason or "")
    (a / "training_args.bin").touch()  # now a was trained
    assert {one.folder: (one.action, one.parent) for one in entries().values()} == {
        "./b": ("add", None),
        "./a": ("full", "./b"),
    }
    (a / "training_args.bin").unlink()
    adapters = [heap.run(name, a, seed=len(name)) for name in ("support", "legal")]  # now a is used as one
    assert entries()["./b"].action == "full"
    for one in adapters:
        shutil.rmtree(one)
    (heap.folder / "b/README.md").write_text(f"---\nbase_model: {a}\n---\n")
    assert entries()["./b"].action == "full"
    (heap.folder / "b/README.md").unlink()
    moved(heap, "b", a, 0.35)
    (found,) = (one for one in entries().values() if one.action != "add")
    assert (found.action, "it may be a base model of its own" in (found.reason or "")) == ("undecided", True)
    moved(heap, "b", a, 0.7)
    assert [one.action for one in entries().values()] == ["add", "add"]
    moved(heap, "b", a, 0.02)
    team.add_base("known", a)
    shutil.rmtree(a)
    assert [(one.folder, one.action, one.parent) for one in entries().values()] == [("./b", "full", "known")]


@pytest.mark.slow
def test_one_of_a_base_model_that_only_the_registry_has(tmp_path: Path, team: LocalRegistry) -> None:
    """Its vocabulary has grown, so that its tensors are not those of the base model."""
    base = llama_base(tmp_path / "base", dtype="BF16")
    team.add_base("net", base.folder)
    grown = fine_tuned(tmp_path / "heap/grown", base, grown=3)
    config = {"base_model_name_or_path": str(grown.folder)}
    write_adapter(tmp_path / "heap/child", grown, ["q_proj"], config=config, r=2, size=0.05)
    plan = team.plan_import(tmp_path / "heap")
    assert [(one.folder, one.action, one.parent) for one in plan.entries] == [
        ("./grown", "full", "net"),
        ("./child", "publish", "./grown"),
    ]
    assert {one.state for one in plan.apply()} == {"published"}
    assert revision_of(team, "net/grown/child").parent_known_by == "compared"


@pytest.mark.parametrize(
    ("distance", "other", "apart", "elements", "began"),
    [
        (0.05, 0.04, 0.03, 16384, True),
        (0.04, 0.05, 0.03, 16384, False),  # the other way round
        (0.05, 0.05, 0.07, 16384, False),  # beside each other
        (0.05, 0.0499, 0.003, 1000, False),  # so near that samples don't show it
    ],
)
def test_which_of_two_came_first_has_to_show(
    distance: float, other: float, apart: float, elements: int, began: bool
) -> None:
    assert began_at(distance, other, Apart(apart, elements)) is began
