"""What a merged model is saved as, heads that the base lacks, and a registry over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import ConflictError, RetractedError, UsageError
from registry.pool import AdapterPool
from tests.kit import llama_base, read_model, write_adapter
from tests.kit.peers import load_model, wrap
from tests.kit.serving import ServedRegistry, open_http
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits

IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama", torch.bfloat16)
    found.publish("head")
    return found


def test_what_is_trained_on_a_saved_model_finds_its_parent(tree: Tree, tmp_path: Path) -> None:
    reference = tree.references[0]
    model = tree.load()
    loaded_from = model.name_or_path
    with AdapterPool(model, tree.registry) as pool, pool.merged(reference):
        saved = pool.save(tmp_path / "merged")
        with pytest.raises(ConflictError):
            pool.save(tree.base.folder)
        assert bits(load_model(Path(saved.folder), torch.bfloat16)) == bits(model) == tree.bits(reference)
        assert model.name_or_path == saved.folder
        child = load_model(Path(saved.folder))
        child.name_or_path = model.name_or_path  # what PEFT asks the model for
        wrap(tmp_path / "child", child, target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert model.name_or_path == loaded_from
    published = tree.registry.publish(tmp_path / "child", f"{reference.partition('@')[0]}/child")
    assert published.revision.parent == reference
    assert "receipt" in published.parent_reason


def test_a_model_of_several_dtypes_is_merged_and_not_saved(tree: Tree, tmp_path: Path) -> None:
    model = tree.load()
    model.model.norm = load_model(tree.base.folder, torch.float32).model.norm  # as transformers keeps some modules
    with AdapterPool(model, tree.registry) as pool, pool.merged(tree.references[0]):
        with pytest.raises(UsageError, match="several dtypes"):
            pool.save(tmp_path / "merged")
        found, right = bits(model), tree.bits(tree.references[0])
        assert {name for name in found if found[name] != right[name]} == {"model.norm.weight"}


def _classifier(folder: Path, labels: int) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(labels)
    options = {"num_labels": labels, "pad_token_id": 0}
    return AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()


def test_heads_that_the_base_lacks(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("classified", llama_base, seed=9)
    write_adapter(tmp_path / "first", base, ["q_proj"])  # so that the head is the last that the path brings
    wrap(tmp_path / "adapter", _classifier(base.folder, 3), target_modules=["q_proj"], task_type="SEQ_CLS")
    reference = shelf.path("classified", [tmp_path / "first", tmp_path / "adapter"])
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    model = _classifier(base.folder, 3)
    before = bits(model)
    with AdapterPool(model, shelf.registry) as pool:
        pool.merge(reference)
        assert bits(model) == bits(_classifier(out, 3))
        assert "score.weight" in read_model(out)
    assert bits(model) == before
    for other in (_classifier(base.folder, 2), load_model(base.folder)):
        with AdapterPool(other, shelf.registry) as pool:
            with pytest.raises(UsageError, match=r"score\.weight") as found:
                pool.merge(reference)
            assert found.value.code == "unsupported_model"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistry]:
    served = open_http(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.mark.parametrize("memory", ["0", "2GiB"])
def test_over_http_it_is_the_same(tree: Tree, service: ServedRegistry, tmp_path: Path, memory: str) -> None:
    reference = tree.references[0]
    path = reference.partition("@")[0]
    tree.registry.copy(tree.name, service, recursive=True)
    model = tree.load()
    with AdapterPool(model, service, memory=memory) as pool:
        service.tag(reference, "prod")
        assert pool.merge(f"{path}@prod") == reference
        assert bits(model) == tree.bits(reference)
        saved = pool.save(tmp_path / "merged")
        receipt = json.loads((Path(saved.folder) / "registry-receipt.json").read_text())
        assert (receipt["reference"], receipt["plan"]["dtype"]) == (reference, "bf16")
        pool.unmerge()
        assert bits(model) == tree.bits(None)
        service.retract(reference, reason="a test")
        with pytest.raises(RetractedError):
            pool.merge(reference)
        service.retract(reference, undo=True)
    assert bits(model) == tree.bits(None)
