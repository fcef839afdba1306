"""What is saved loads in PEFT and means the same there, and is published on the revision that it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from registry.errors import ConflictError, UsageError
from registry.pool.parallel_training import Siblings
from tests.kit.peers import between_themselves, load_model, wrap
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Nursery, classifier, texts


@pytest.fixture(scope="module")
def nurseries(shelf: Shelf) -> dict[str, Nursery]:
    return {
        "gpt2": Nursery(shelf, "gpt2"),
        "bert": Nursery(shelf, "bert", classifier),
        "llama": Nursery(shelf, "llama"),
    }


CONFIGS = {
    "gpt2": peft.LoraConfig(r=2, use_dora=True, target_modules="all-linear", rank_pattern={"c_fc": 3}),
    "bert": peft.LoraConfig(r=2, use_rslora=True, target_modules=["query", "word_embeddings"], task_type="SEQ_CLS"),
    "llama": {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_folder_means_the_same_in_peft(nurseries: dict[str, Nursery], kind: str, tmp_path: Path) -> None:
    nursery = nurseries[kind]
    path = nursery.path("saved")
    batch = texts(3, labels=3 if kind == "bert" else None)
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    with nursery.pool() as pool, pool.siblings({path: CONFIGS[kind]}, nursery.parent, learning_rate=0.05) as siblings:
        for _ in range(3):
            siblings.step(batch, [path] * 3)
        with torch.no_grad(), siblings.rows([path] * 3):
            right = pool._model(**inputs).logits
        folder = siblings.save(path, tmp_path / "saved")
        (published,) = siblings.publish(message="of three steps", tags=["first"])
        with pytest.raises(ConflictError):
            siblings.save(path, folder)
    with between_themselves():
        loaded = peft.PeftModel.from_pretrained(nursery.load(nursery.merged), folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, right, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(
            loaded.base_model.model(**inputs).logits, nursery.load(nursery.merged)(**inputs).logits
        )
    shown = nursery.shelf.registry.show(published).revision
    assert shown is not None
    assert (shown.parent, shown.message, shown.tags) == (nursery.parent, "of three steps", ("first",))
    merged = nursery.shelf.folder()
    nursery.shelf.registry.fetch(published, merged, kind="merged")
    with torch.no_grad():
        torch.testing.assert_close(nursery.load(merged)(**inputs).logits, right, rtol=1e-4, atol=1e-5)


def test_a_configuration_is_as_peft_writes_it(nurseries: dict[str, Nursery], tmp_path: Path) -> None:
    for kind in ("gpt2", "bert"):
        nursery, config = nurseries[kind], CONFIGS[kind]
        path = nursery.path("saved")
        wrap(tmp_path / f"{kind}-peft", nursery.load(nursery.merged), **config.to_dict() | {"auto_mapping": None})
        with nursery.pool() as pool, pool.siblings({path: config}, nursery.parent) as siblings:
            siblings.save(path, tmp_path / f"{kind}-ours")
        ours, theirs = (
            json.loads((tmp_path / f"{kind}-{side}" / "adapter_config.json").read_text()) for side in ("ours", "peft")
        )
        assert ours.pop("base_model_name_or_path") == nursery.parent
        assert theirs.pop("base_model_name_or_path")
        assert sorted(ours.pop("target_modules")) == sorted(theirs.pop("target_modules"))
        assert sorted(ours.pop("modules_to_save") or ()) == sorted(theirs.pop("modules_to_save") or ())
        assert ours == theirs


def test_the_parent_is_pinned_where_the_folder_is_moved_and_there_are_newer(
    nurseries: dict[str, Nursery], tmp_path: Path
) -> None:
    nursery = nurseries["llama"]
    registry = nursery.shelf.registry
    above, path = nursery.parent.partition("@")[0], nursery.path("moved")
    with nursery.pool() as pool, pool.siblings({path: CONFIGS["llama"]}, above) as siblings:
        assert siblings.parent == nursery.parent
        siblings.save(path, tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    newer = nursery.shelf.folder()
    wrap(newer, load_model(nursery.base.folder), r=1, target_modules=["k_proj"])
    assert (
        registry.publish(newer, above, skip_parent_check=True, parent="llama-nursery").revision.reference
        != nursery.parent
    )
    published = registry.publish(tmp_path / "there", path)
    assert published.revision.parent == nursery.parent
    assert "receipt" in published.parent_reason
    with registry.artifact(published.revision.reference, kind="published") as artifact:
        assert sorted(artifact.files) == ["adapter_config.json", "adapter_model.safetensors"]


def test_on_the_base_itself(nurseries: dict[str, Nursery]) -> None:
    nursery = nurseries["llama"]
    with nursery.pool() as pool:
        siblings: Siblings = pool.siblings({"llama-nursery/direct": CONFIGS["llama"]})
        assert siblings.parent == "llama-nursery"
        assert siblings.publish() == ("llama-nursery/direct@1",)
        for name in ("llama-nursery/direct/below", "llama-nursery"):
            with pytest.raises(UsageError):
                pool.siblings({name: CONFIGS["llama"]})
    shown = nursery.shelf.registry.show("llama-nursery/direct").revision
    assert shown is not None
    assert shown.parent == "llama-nursery"


def test_the_pool_is_left_as_it_was(nurseries: dict[str, Nursery]) -> None:
    nursery = nurseries["llama"]
    given: dict[str, Any] = {nursery.path("held"): CONFIGS["llama"]}
    with nursery.pool() as pool:
        pool.merge(nursery.parent)
        with pool.siblings(given, nursery.parent):
            for change in (
                pool.unmerge,
                lambda: pool.merge(nursery.parent),
                lambda: pool.siblings(given, nursery.parent),
            ):
                with pytest.raises(UsageError, match="close them first"):
                    change()
        assert pool.path == nursery.parent
        pool.unmerge()
        with pytest.raises(UsageError, match="names no module"):
            pool.siblings({nursery.path("none"): {**CONFIGS["llama"], "target_modules": ["nowhere"]}}, nursery.parent)
        assert [pool.path] == [None]
        pool.siblings(given, nursery.parent)
    assert [pool.path] == [None]
