"""A heap made by PEFT and transformers' Trainer comes in as a whole: every parent right, traps refused or left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from registry.operations.import_plan import ImportPlan
from registry.services.local import LocalRegistry
from tests.kit import RawTensor, read_tensors, write_tensors
from tests.kit.heap import LINEAR, WEIGHTS, Heap, _lora, make_heap
from tests.kit.peers import load_model, peft_merge
from tests.services.importing.import_heap import try_heap
from tests.services.importing.test_import_plan import planned
from tests.services.publishing.parent_house import opened

pytestmark = pytest.mark.slow


def _more(root: Path, heap: Heap) -> None:
    """A bf16 merge made step by step with its child and grandchild, a full fine-tune, and an averaged adapter."""
    first, base = heap.folder / "rslora", heap.base.folder
    peft_merge(base, [first], torch.bfloat16).save_pretrained(root / "bf16")
    _lora(heap.folder / "child", root / "bf16", target_modules=LINEAR)
    peft_merge(base, [first, heap.folder / "child"], torch.bfloat16).save_pretrained(root / "bf16-2")
    _lora(heap.folder / "grandchild", root / "bf16-2", target_modules=("k_proj",))
    model = load_model(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(root / "tuned")
    averaged = heap.folder / "averaged"
    shutil.copytree(first, averaged, ignore=shutil.ignore_patterns("with*"))
    one, other = (read_tensors(heap.folder / name / WEIGHTS) for name in ("rslora", "on-the-base"))
    mean = {name: RawTensor.of((raw.values + other[name].values) / 2, "F32") for name, raw in one.items()}
    write_tensors(averaged / WEIGHTS, mean)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heap")
    heap = make_heap(root)
    _more(root, heap)
    shutil.rmtree(root / "first")
    for receipt in root.rglob("registry-receipt.json"):
        receipt.unlink()  # all proofs are by the weights
    return root


@pytest.fixture(scope="module")
def team(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with closing(opened(tmp_path_factory.mktemp("team"))) as registry:
        yield registry


@pytest.fixture(scope="module")
def plan(root: Path, team: LocalRegistry) -> ImportPlan:
    return team.plan_import(root)


PARENTS = {
    "./base": None,
    "./other": None,
    "./heap/another-base": "./other",
    "./heap/averaged": "./base",
    "./heap/dora": "./base",
    "./heap/embeddings-and-head": "./base",
    "./heap/embeddings-with-copies": "./base",
    "./heap/on-the-base": "./base",
    "./heap/pickled": "./base",
    "./heap/rslora": "./base",
    "./heap/trainer": "./base",
    "./heap/two/first": "./base",
    "./heap/two/second": "./base",
    "./heap/rslora/with-receipt": "./heap/rslora",
    "./heap/rslora/without-receipt": "./heap/rslora",
    "./heap/child": "./heap/rslora",
    "./heap/grandchild": "./heap/child",
}


def test_all_that_can_come_is_planned_below_its_true_parent(plan: ImportPlan) -> None:
    assert {folder: parent for folder, (_, _, parent) in planned(plan.entries).items()} == PARENTS
    undecided = {one.folder for one in plan.entries if one.action == "undecided"}
    assert undecided == {"./heap/quantised-by-load", "./heap/quantised-by-name"}
    assert {one.folder: one.parent for one in plan.entries if one.action == "full"} == {"./tuned": "./base"}
    assert {one.folder: one.code for one in plan.entries if one.action == "refused"} == {
        "./heap/ia3": "unsupported_peft_type",
        "./heap/mlx": "missing_file",
        "./heap/pissa": "base_shifting_init",
        "./heap/resized": "shape_mismatch",
    }
    trainer = next(one for one in plan.entries if one.folder == "./heap/trainer")
    assert trainer.annotations == {"trainer": "transformers Trainer", "step": "2"}


def test_and_comes_in_so(plan: ImportPlan, team: LocalRegistry) -> None:
    assert {one.state for one in plan.apply()} == {"published"}
    found = {one.path.rpartition("/")[2]: one for one in team.search().revisions}
    assert found["grandchild"].parent == found["child"].reference
    assert found.pop("tuned").parent_known_by == "given"
    for one in found.values():
        assert one.parent_known_by == ("named" if one.parent.count("/") == 0 else "compared"), one.reference


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_no_wrong_parent_in_a_drawn_heap(tmp_path: Path, seed: int) -> None:
    found = try_heap(tmp_path, seed)
    assert found["known: publish"] > found["known: undecided"]
    assert found["refused"] == found["blocked"] == 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 30))
def test_no_wrong_parent_in_more_drawn_heaps(tmp_path: Path, seed: int) -> None:
    found = try_heap(tmp_path, seed)
    assert found["known: publish"] > found["known: undecided"]
