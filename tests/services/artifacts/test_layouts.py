"""Weights that transformers cuts out of fused tensors, joins, or reorders on loading, against PEFT's own merge.

Models are of real types with the real layout of their files. Every pair, magnitude, bias and whole module goes to the
rows where the files have it, and the merged folder loads as any other of its type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import ConflictError
from registry.services.bases import add
from registry.tensors.table import architecture, architecture_child
from registry.tensors.table.targets import TargetTable
from tests.kit.laid_models import LAID_MODELS, laid_base, load_laid
from tests.kit.peers import between_themselves, logits, no_complaints, train_adapter
from tests.kit.shelf import Shelf
from tests.kit.tensor_files import RawTensor, read_model, write_model

FAST = ("sarvam_moe", "kimi_k25")
TYPES = [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in LAID_MODELS]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A registry whose target tables are made in this process: the child has tests of its own."""
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architecture, "_ask_child", facts_here)
        yield made
    made.close()


def facts_here(
    config: Mapping[str, Any], tensors: Mapping[str, Any], *_: float, library: str, whole: bool
) -> dict[str, Any]:
    del whole
    shapes = {name: list(shape) for name, (_, shape) in tensors.items()}
    request = json.loads(json.dumps({"library": library, "config": config, "tensors": shapes}))
    answer: dict[str, Any] = architecture_child.answer(request)
    return answer


def links_of(model_type: str) -> list[dict[str, Any]]:
    """DoRA, then plain pairs with what else changes such modules, then DoRA again on what has been changed."""
    laid = LAID_MODELS[model_type]
    modules = list(laid.modules)
    second: dict[str, Any] = {"target_modules": [*modules, "down_proj"], "r": 3, "use_rslora": True}
    third: dict[str, Any] = {"target_modules": modules[:1], "modules_to_save": modules[1:], "r": 2}
    if laid.biased:
        second |= {"lora_bias": True, "target_modules": modules}
        third |= {"bias": "all"}
    return [
        {"target_modules": modules, "use_dora": True, "r": 2, "lora_alpha": 4},
        second,
        third,
        {"target_modules": modules, "use_dora": True, "r": 2},
    ]


def base_of(shelf: Shelf, model_type: str) -> tuple[str, Path]:
    name = model_type.replace("_", "-")
    folder = shelf.root / f"base-{name}"
    if not folder.exists():
        laid_base(folder, model_type)
        shelf.registry.add_base(name, folder)
    return name, folder


def train(shelf: Shelf, folder: Path, model_type: str, links: list[dict[str, Any]]) -> tuple[list[Path], Any]:
    model, path = load_laid(folder, model_type), []
    for number, options in enumerate(links):
        path.append(shelf.folder())
        model = train_adapter(path[-1], model, seed=number, **options)
    return path, model.eval()


def assert_same(ours: Any, theirs: Any, tolerance: float = 2e-5) -> None:
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, wanted[name], atol=tolerance), name


@pytest.mark.slow_on("kimi_k25")
@pytest.mark.parametrize("model_type", TYPES)
def test_merged_and_composed_are_what_peft_makes(shelf: Shelf, model_type: str) -> None:
    import peft

    name, folder = base_of(shelf, model_type)
    path, model = train(shelf, folder, model_type, links_of(model_type))
    reference, out = shelf.path(name, path), shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    assert {key: (one.dtype, one.shape) for key, one in read_model(out).items()} == {
        key: (one.dtype, one.shape) for key, one in read_model(folder).items()
    }
    with no_complaints():
        merged = load_laid(out, model_type)
    assert_same(merged, model)
    assert torch.allclose(logits(merged), logits(model), atol=5e-5)
    # without the whole modules of the third link, which a composed adapter holds as they are
    for end in (shelf.path(name, path[:1]), shelf.path(name, path[:2]), reference):
        theirs = shelf.folder()
        shelf.registry.fetch(end, theirs, kind="merged")
        composed = shelf.composed(end)
        with no_complaints(), between_themselves():
            ours = peft.PeftModel.from_pretrained(load_laid(folder, model_type), str(composed)).merge_and_unload()
        assert_same(ours, load_laid(theirs, model_type))


@pytest.mark.parametrize("model_type", TYPES)
def test_truncated_to_its_full_rank_is_the_same(shelf: Shelf, model_type: str) -> None:
    import peft

    name, folder = base_of(shelf, model_type)
    links = links_of(model_type)[:2]
    path, model = train(shelf, folder, model_type, links)
    composed = shelf.composed(shelf.path(name, path), rank=5)
    with no_complaints(), between_themselves():
        ours = peft.PeftModel.from_pretrained(load_laid(folder, model_type), str(composed)).merge_and_unload()
    assert_same(ours, model, 1e-4)


def test_only_the_rows_of_the_module_change(shelf: Shelf) -> None:
    """A pair on the keys leaves the bytes of queries and values in the fused tensor as they are."""
    name, folder = base_of(shelf, "sarvam_moe")
    path, _ = train(shelf, folder, "sarvam_moe", [{"target_modules": ["self_attn.k_proj"], "r": 2}])
    merged, base = shelf.merged(shelf.path(name, path)), read_model(folder)
    changed = {key for key in base if merged[key].data != base[key].data}
    assert len(changed) == 1
    (key,) = changed
    before, after = (torch.from_numpy(one[key].values) for one in (base, merged))
    rows = (before != after).any(1).nonzero().flatten().tolist()
    assert rows == list(range(16, 24))  # 4 heads of queries, then 2 of keys, of 4 features each


def test_another_merge_into_rows_beside_those_of_the_parent_is_noticed(shelf: Shelf) -> None:
    """The parent has a pair on the keys; something else was merged into the values of the same fused tensor."""
    name, folder = base_of(shelf, "sarvam_moe")
    path, _ = train(shelf, folder, "sarvam_moe", [{"target_modules": ["self_attn.k_proj"], "r": 2}])
    parent, merged = shelf.path(name, path), shelf.folder()
    above = parent.partition("@")[0]
    shelf.registry.fetch(parent, merged, kind="merged")
    (child,), _ = train(shelf, merged, "sarvam_moe", [{"target_modules": ["self_attn.k_proj"], "r": 2}])
    config = json.loads((child / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(merged)}
    (child / "adapter_config.json").write_text(json.dumps(config))
    assert shelf.registry.preview(child, f"{above}/child").parent_reason.endswith(f"those in {merged}")
    tensors = read_model(merged)
    (fused,) = (key for key in tensors if "query_key_value" in key)
    values = tensors[fused].values
    values[24:] += 0.05  # 4 heads of queries, 2 of keys and 2 of values, of 4 features each
    write_model(merged, tensors | {fused: RawTensor.of(values, tensors[fused].dtype)})
    with pytest.raises(ConflictError, match="query_key_value") as refused:
        shelf.registry.publish(child, f"{above}/child")
    assert refused.value.code == "parent_unproven"


def test_a_base_of_before_is_served_once_its_table_is_made_anew(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = laid_base(shelf.folder(), "sarvam_moe")
    with monkeypatch.context() as patch:
        patch.setattr(add, "understood", lambda model, made=add.understood: of_before(made(model)))
        shelf.registry.add_base("old", folder)
    (adapter,), model = train(shelf, folder, "sarvam_moe", links_of("sarvam_moe")[:1])
    with pytest.raises(ConflictError, match="registry base retable") as refused:
        shelf.registry.publish(adapter, "old/first")
    assert refused.value.code == "retable_needed"
    assert shelf.registry.retable("old").changed
    out = shelf.folder()
    shelf.registry.fetch(shelf.registry.publish(adapter, "old/first").revision.reference, out, kind="merged")
    assert_same(load_laid(out, "sarvam_moe"), model)


def of_before(table: TargetTable) -> TargetTable:
    """As tables were made before rows were followed: of unknown kind, and without such parameters."""
    document = table.to_document()
    for name, target in table.targets.items():
        if target.runs:
            document["targets"][name]["kind"] = "unknown"
    del document["runs"]
    return TargetTable.from_document(document)


def test_in_sixteen_bits_each_value_is_rounded_once(shelf: Shelf) -> None:
    folder = laid_base(shelf.folder(), "minimax_m3_vl", torch.bfloat16)
    shelf.registry.add_base("minimax-bf16", folder)
    path, model = train(shelf, folder, "minimax_m3_vl", links_of("minimax_m3_vl")[:2])
    out = shelf.folder()
    shelf.registry.fetch(shelf.path("minimax-bf16", path), out, kind="merged")
    assert_same(load_laid(out, "minimax_m3_vl", torch.bfloat16), model.to(torch.bfloat16), 0.0)
