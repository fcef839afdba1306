"""Full fine-tunes that are kept exactly: their bytes, what is trained on them, and what can't be done with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry import connect
from registry.errors import ConflictError, InvalidAdapterError, UsageError
from registry.files.header import TensorEntry, read_header
from registry.files.source import FileSource
from registry.files.strict_json import parse
from registry.services.bases.add import understood
from registry.services.local import LocalRegistry
from registry.tensors.comparison.fingerprint import base_sample
from registry.tensors.table.targets import TargetTable
from registry.transfer.model_files import CheckedModel
from tests.kit import Base, RawTensor, gpt2_base, llama_base, read_model, read_tensors, write_adapter, write_tensors
from tests.kit.fine_tunes import fine_tuned
from tests.kit.floats import Array, round_once
from tests.kit.kinds_of_bases import mixtral_base
from tests.kit.merged_tensor import used_bound
from tests.kit.pages import Visitor
from tests.kit.peers import peft_merge
from tests.kit.registries import opened_as
from tests.kit.serving import ServedRegistry
from tests.kit.weighed import weighed
from tests.services.exact.shop import Shop, same_bits

MAKERS: dict[str, Callable[..., Base]] = {"llama": llama_base, "gpt2": gpt2_base, "mixtral": mixtral_base}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """With net/sft, a full fine-tune, two links below it, and net/lora beside it."""
    folder = tmp_path_factory.mktemp("exact")
    with closing(LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")) as registry:
        made = Shop(folder, registry)
        made.published("net/sft", fine_tuned(folder / "sft", made.base))
        model = Base(folder / "sft", made.base.modules, made.base.architecture)
        first = write_adapter(folder / "first", model, ["q_proj", "k_proj", "down_proj"], r=2, size=0.1, seed=1)
        second = write_adapter(folder / "second", model, ["q_proj", "embed_tokens"], r=3, size=0.1, seed=2)
        registry.publish(first, "net/sft/first")
        registry.publish(second, "net/sft/first/second")
        registry.publish(write_adapter(folder / "lora", made.base, ["q_proj"], r=2, size=0.1, seed=3), "net/lora")
        yield made


@pytest.mark.slow_on("F32")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_model_comes_back_bit_for_bit(tmp_path: Path, kind: str, dtype: str) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, MAKERS[kind], dtype=dtype)
        model = fine_tuned(tmp_path / "sft", shop.base, shards=3, frozen=("k_proj", "c_fc"))
        shop.published("net/sft", model)
        same_bits(shop.merged("net/sft"), model.folder)
        shown = registry.show("net/sft")
        stored = {file.path: file.size for file in shown.files}
        assert 0 < shown.share_of_model <= 1.1  # random values take about what they are, and the index
        assert set(stored) == {"config.json", "model.exact"}
        assert stored["model.exact"] < sum(len(one.data) for one in read_model(model.folder).values())


def test_links_below_add_to_it(shop: Shop) -> None:
    """Against the merge of a naive reference in float64, on the model's own folder."""
    model = Base(shop.folder / "sft", shop.base.modules, shop.base.architecture)
    wanted = model.reference([shop.folder / "first", shop.folder / "second"])
    found = shop.merged("net/sft/first/second")
    assert found.keys() == wanted.keys()
    assert used_bound(wanted, found) <= 1
    assert found["lm_head.weight"] == read_model(model.folder)["lm_head.weight"]
    assert used_bound(wanted, shop.merged("net/sft/first/second", dtype="fp32"), "F32") <= 1


def test_what_is_above_it_is_history(shop: Shop) -> None:
    model = fine_tuned(shop.folder / "over-lora", shop.base, seed=5)
    shop.published("net/lora/sft", model)
    same_bits(shop.merged("net/lora/sft"), model.folder)


def test_the_last_exact_revision_of_a_path_counts(shop: Shop) -> None:
    model = fine_tuned(shop.folder / "twice", shop.base, seed=6)
    shop.published("net/sft/twice", model)
    same_bits(shop.merged("net/sft/twice"), model.folder)
    child = write_adapter(shop.folder / "below", model, ["q_proj", "k_proj"], r=2, size=0.1, seed=7)
    shop.registry.publish(child, "net/sft/twice/below")
    assert used_bound(model.reference([child]), shop.merged("net/sft/twice/below")) <= 1
    same_bits(shop.merged("net/sft/twice/below", weights={"below": 0}), model.folder)
    half = weighed(shop.folder / "half", child, 0.5)
    assert used_bound(model.reference([half]), shop.merged("net/sft/twice/below@1:0.5")) <= 1
    for name in ("sft", "twice"):
        with pytest.raises(UsageError, match="net/sft/twice@1 is a full fine-tune, which replaces"):
            shop.merged("net/sft/twice/below", weights={name: 0.5})


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, tied=True)
        model = fine_tuned(tmp_path / "sft", shop.base)
        copied = tmp_path / "copied"
        tensors = read_model(model.folder)
        copied.mkdir()
        (copied / "config.json").write_bytes((model.folder / "config.json").read_bytes())
        embedding = tensors["model.embed_tokens.weight"]
        write_tensors(copied / "model.safetensors", {**tensors, "lm_head.weight": embedding})
        shop.published("net/sft", Base(copied, shop.base.modules, None))
        same_bits(shop.merged("net/sft"), model.folder)
        other = RawTensor.of(embedding.values + 1, embedding.dtype)
        write_tensors(copied / "model.safetensors", {**tensors, "lm_head.weight": other})
        assert shop.refused(copied).code == "tied_partial"


@pytest.mark.slow_on("untied")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_grown_vocabulary_comes_with_its_size(tmp_path: Path, tied: bool) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, tied=tied)
        model = fine_tuned(tmp_path / "sft", shop.base, grown=3)
        shop.published("net/sft", model)
        found = shop.merged("net/sft")
        same_bits(found, model.folder)
        if not tied:
            _generates(registry, tmp_path / "out", 43)
        child = write_adapter(tmp_path / "child", model, ["embed_tokens", "q_proj"], r=2, size=0.1)
        registry.publish(child, "net/sft/child")
        wanted = model.reference([child])
        assert used_bound(wanted, shop.merged("net/sft/child")) <= 1
        config = {"base_model_name_or_path": str(model.folder)}
        lost = write_adapter(tmp_path / "lost", model, ["embed_tokens"], r=2, size=0.1, seed=8, config=config)
        assert registry.publish(lost, "net/sft/lost", find_parent=True).revision.parent == "net/sft@1"
        registry.fetch("net/sft/child", tmp_path / "merged-child", kind="merged")
        for folder, path in ((model.folder, "net/sft"), (tmp_path / "merged-child", "net/sft/child")):
            assert [one.reference for one in registry.identify(folder).merged] == [f"{path}@1"]
        assert registry.identify(child).published == ("net/sft/child@1",)


def _generates(registry: LocalRegistry, out: Path, vocabulary: int) -> None:
    from transformers import AutoModelForCausalLM

    registry.fetch("net/sft", out, kind="merged")
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.config.vocab_size == vocabulary
    ids = loaded.dummy_inputs["input_ids"] * 0 + vocabulary - 1
    assert loaded.generate(inputs=ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]


def test_another_dtype_than_the_bases_is_kept(shop: Shop) -> None:
    model = fine_tuned(shop.folder / "fp32", shop.base, dtype="F32", frozen=())
    shop.published("net/fp32", model)
    same_bits(shop.merged("net/fp32"), model.folder)
    rounded = shop.merged("net/fp32", dtype="bf16")
    for name, one in read_model(model.folder).items():
        assert np.array_equal(rounded[name].values, round_once(one.values, "BF16")), name


def test_its_parent_again_is_refused(shop: Shop) -> None:
    assert "equals net (" in str(shop.refused(shop.base.folder))
    assert shop.refused(shop.base.folder).code == "no_change"
    again = shop.refused(shop.folder / "sft", "net/sft/again")
    assert again.code == "no_change"
    assert "equals net/sft@1 (" in str(again)
    out = shop.folder / "merged-lora"
    shop.registry.fetch("net/lora", out, kind="merged")
    assert "equals net/lora@1 (" in str(shop.refused(out, "net/lora/again"))


def _changed(shop: Shop, name: str, change: Callable[[dict[str, RawTensor]], object], **config: Any) -> Path:
    folder = shop.folder / name
    tensors = read_model(shop.folder / "sft")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)
    document = json.loads((shop.folder / "sft" / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(document))
    return folder


_HEAD = "lm_head.weight"
_NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("name", "code", "change"),
    [
        ("lacking", "incomplete_model", lambda found: found.pop(_HEAD)),
        ("more", "unknown_target", lambda found: found.update(more=found[_NORM])),
        ("shape", "shape_mismatch", lambda found: found.update({_NORM: RawTensor.of(np.ones(15), "BF16")})),
        ("nan", "non_finite", lambda found: found.update({_NORM: RawTensor("BF16", (16,), b"\xff" * 32)})),
        ("half-grown", "shape_mismatch", lambda found: found.update({_HEAD: RawTensor.of(np.ones((43, 16)), "BF16")})),
        (
            "grown-unsaid",
            "bad_config",
            lambda found: found.update(
                {one: RawTensor.of(np.ones((43, 16)), "BF16") for one in (_HEAD, "model.embed_tokens.weight")}
            ),
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    shop: Shop, name: str, code: str, change: Callable[[dict[str, RawTensor]], object]
) -> None:
    assert shop.refused(_changed(shop, name, change)).code == code


def test_a_folder_that_is_no_model_is_refused(shop: Shop) -> None:
    bare = _changed(shop, "bare", lambda found: None)
    (bare / "config.json").unlink()
    assert shop.refused(bare).code == "missing_file"
    assert shop.refused(shop.folder / "first").code == "adapter_as_base"
    quantised = _changed(shop, "quantised", lambda found: None, quantization_config={"quant_method": "gptq"})
    assert shop.refused(quantised).code == "quantised_base"


def test_svd_is_for_adapters(shop: Shop) -> None:
    with pytest.raises(UsageError, match="--svd says"):
        shop.registry.publish(shop.folder / "sft", "net/x", full=True, svd="full")


def test_no_lora_equals_it(shop: Shop) -> None:
    for ref in ("net/sft", "net/sft/first"):
        with pytest.raises(InvalidAdapterError, match="--as merged") as refused:
            shop.registry.artifact(ref)
        assert refused.value.code == "not_composable"
    with shop.registry.artifact("net/sft/first/second", since="net/sft@1") as composed:
        assert dict(composed.tensors())
    assert not shop.registry.check("net/sft/first", engine="vllm").loads


def test_figures_are_of_the_links_below_it(shop: Shop) -> None:
    with pytest.raises(InvalidAdapterError, match="exact full fine-tune"):
        shop.registry.stats("net/sft")
    with pytest.raises(InvalidAdapterError, match="have no delta together"):
        shop.registry.stats("net/sft/first", since="net")
    found = shop.registry.stats("net/sft/first/second", fidelity="bf16")
    assert (found.since, [one.reference for one in found.links]) == (
        "net/sft@1",
        ["net/sft/first@1", "net/sft/first/second@1"],
    )
    alone = read_tensors(shop.folder / "first" / "adapter_model.safetensors")
    a, b = (
        next(one.values for name, one in alone.items() if f"0.self_attn.q_proj.lora_{part}" in name) for part in "AB"
    )
    norm = np.linalg.norm(8 / 2 * b @ a)
    module = "model.layers.0.self_attn.q_proj"
    told = next(one for one in found.links[0].delta.modules if one.module == module)
    assert np.isclose(told.frobenius, norm, rtol=1e-6)
    with pytest.raises(InvalidAdapterError):
        shop.registry.diff("net/lora", "net/sft/first", deltas=True)


def test_the_folder_that_a_child_was_trained_on_is_compared(shop: Shop) -> None:
    """Without a receipt, and in a tree where other models are within rounding of it."""
    near = fine_tuned(shop.folder / "near", Base(shop.folder / "sft", shop.base.modules, None), seed=21, scale=1e-5)
    shop.published("net/sft/near-it", near)
    places = {"net/sft": shop.folder / "sft", "net/sft/near-it": near.folder}
    for parent, place in places.items():
        config = {"base_model_name_or_path": str(place)}
        name = parent.replace("/", "-")
        child = write_adapter(shop.folder / f"of-{name}", shop.base, ["v_proj"], r=2, seed=22, config=config)
        for path in places:
            if path == parent:
                found = shop.registry.publish(child, f"{path}/compared").revision
                assert (found.parent, found.parent_known_by) == (f"{parent}@1", "compared")
            else:
                with pytest.raises(ConflictError) as refused:
                    shop.registry.publish(child, f"{path}/compared-{name}")
                assert refused.value.code in {"parent_mismatch", "parent_unproven"}
        assert shop.registry.publish(child, f"{parent}/searched", find_parent=True).revision.parent == f"{parent}@1"
        (one,) = shop.registry.identify(place).merged
        assert (one.reference, one.links) == (f"{parent}@1", (f"{parent}@1",))
    config = {"base_model_name_or_path": str(shop.folder / "sft")}
    lost = write_adapter(shop.folder / "lost", shop.base, ["v_proj"], r=2, seed=23, config=config)
    with pytest.raises(ConflictError, match="publish under net/sft,"):
        shop.registry.publish(lost, "net/lora/compared", find_parent=True)


def test_paths_through_it_are_found(shop: Shop) -> None:
    """Its links merged in steps as PEFT does it; its history, which nothing merged; and adapters below it."""
    model = Base(shop.folder / "sft", shop.base.modules, shop.base.architecture)
    links = ("net/sft@1", "net/sft/first@1", "net/sft/first/second@1")
    for order in (("first", "second"), ("second", "first")):
        merged = shop.folder / "-".join(order)
        steps = peft_merge(model.folder, [shop.folder / name for name in order], torch.bfloat16)
        steps.save_pretrained(merged)
        found = shop.registry.identify(merged)
        if order == ("first", "second"):
            assert [(one.reference, one.links, one.order_shows) for one in found.merged] == [(links[-1], links, True)]
        else:
            assert (found.merged, found.unknown_order) == ((), (links[2], links[1]))
    over = fine_tuned(shop.folder / "over-sft", shop.base, seed=41)
    shop.published("net/sft/first/over", over)
    assert [one.links for one in shop.registry.identify(over.folder).merged] == [("net/sft/first/over@1",)]
    assert shop.registry.identify(shop.folder / "first").published == ("net/sft/first@1",)
    foreign = fine_tuned(shop.folder / "unpublished", model, seed=42)
    unknown = shop.registry.identify(foreign.folder)
    assert unknown.merged == ()
    assert str(unknown.nearest).startswith("net/sft")
    ours, theirs = (_at_spots(shop, one) for one in (model.folder, foreign.folder))
    near = {one.reference: one.distance for one in unknown.near}
    assert near["net/sft@1"] == pytest.approx(np.linalg.norm(theirs - ours) / np.linalg.norm(ours), rel=1e-4)


def _at_spots(shop: Shop, folder: Path) -> Array:
    """What a model has where its base is sample_values, as much of each tensor as there is of all of it."""
    entries: dict[str, TensorEntry] = {}
    for file in sorted(shop.base.folder.glob("*.safetensors")):
        with FileSource(file) as source:
            entries |= read_header(source, what=file.name, error=InvalidAdapterError).entries
    found, parts = read_model(folder), list[Array]()
    for chosen in base_sample(entries).tensors:
        values = found[chosen.tensor].values.ravel()
        parts.append(values[chosen.offsets] * (entries[chosen.tensor].elements / chosen.elements) ** 0.5)
    return np.concatenate(parts)


def test_nothing_is_rebased_over_it(shop: Shop) -> None:
    shop.published("net/lora/sft", fine_tuned(shop.folder / "to-rebase", shop.base, seed=11))
    for ref in ("net/sft/first/second", "net/lora/sft"):
        with pytest.raises(InvalidAdapterError, match="exact full fine-tune"):
            shop.registry.rebase(ref, f"{ref.rpartition('/')[0]}@1")


def test_what_is_made_of_it_elsewhere(shop: Shop, tmp_path: Path) -> None:
    """An export of the model; and combinations, and exports of what no other program reads, which are refused."""
    shop.registry.export("net/sft", tmp_path / "export", kind="merged")
    same_bits(read_model(tmp_path / "export"), shop.folder / "sft")
    with pytest.raises(InvalidAdapterError, match="--as merged"):
        shop.registry.export("net/sft", tmp_path / "stored", kind="published")
    model = Base(shop.folder / "sft", shop.base.modules, None)
    other = write_adapter(shop.folder / "other", model, ["q_proj"], r=2, size=0.1, seed=31)
    shop.registry.publish(other, "net/sft/other")
    with pytest.raises(InvalidAdapterError, match="exact full fine-tune"):
        shop.registry.combine({"net/sft/first": 1.0, "net/sft/other": 0.5}, "net/sft/mixed")


def _pages_tell(registry: ServedRegistry, ref: str) -> None:
    """No command that refuses it, and where its tensors are."""
    with Visitor(registry.url) as somebody:
        somebody.sign_in(registry.local.create_token("reader", name="pages").secret)
        overview = somebody.get(f"/tree/{ref}").text
        assert "replaces tensors of the base model" in overview
        assert "registry stats" not in overview
        assert "of 0" not in overview
        assert f"/tensors/{ref}?kind=merged" in somebody.get(f"/tensors/{ref}?kind=published").text


def test_its_materialisation_has_the_same_bytes(shop: Shop) -> None:
    before = shop.merged("net/sft/first")
    shop.registry.materialise("net/sft/first", kind="merged")
    assert shop.merged("net/sft/first") == before


def test_nested_folders_with_one(shop: Shop, tmp_path: Path) -> None:
    """As `fetch --as published` writes them: published again with `publish -r`, with the same digests."""
    shop.registry.fetch("net/sft", tmp_path / "tree/sft", kind="published")
    shop.registry.fetch("net/sft/first", tmp_path / "tree/sft/first", kind="published")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as other:
        other.add_base("net", shop.base.folder)
        planned = other.publish_folders(tmp_path / "tree", "net", dry_run=True)
        assert [one.path for one in planned] == ["net/sft", "net/sft/first"]
        for one in other.publish_tree(tmp_path / "tree", "net"):
            path = one.revision.reference.partition("@")[0]
            assert one.revision.digest == shop.registry.log(path).revisions[0].digest


def test_a_rebuilt_table_leaves_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: CheckedModel) -> TargetTable:
        return replace(understood(model), model_type="llama2")

    monkeypatch.setattr("registry.services.bases.retable.understood", other)
    before = shop.merged("net/sft/first/second")
    assert shop.registry.retable("net").changed
    assert shop.merged("net/sft/first/second") == before


@pytest.mark.slow
def test_a_pool_refuses_it(shop: Shop) -> None:
    from transformers import AutoModelForCausalLM

    from registry.pool import AdapterPool

    model = AutoModelForCausalLM.from_pretrained(shop.base.folder)
    with (
        closing(connect(shop.folder / "registry")) as registry,
        AdapterPool(model, registry) as pool,
        pytest.raises(InvalidAdapterError, match="exact full"),
    ):
        pool.merge("net/sft/first")


def test_a_folder_fetched_as_published_is_published_again(shop: Shop) -> None:
    out = shop.folder / "published"
    shop.registry.fetch("net/sft", out, kind="published")
    answer = shop.registry.publish(out, "net/again")
    assert [(one.code, one.reference) for one in answer.noticed] == [("duplicate", "net/sft@1")]
    with pytest.raises(InvalidAdapterError, match="those of net/sft@1, byte for byte"):
        shop.registry.publish(shop.folder / "sft", "net/third", full=True, strict=["duplicate"])
    again = answer.revision
    assert again.digest == shop.registry.log("net/sft").revisions[0].digest
    same_bits(shop.merged("net/again"), shop.folder / "sft")


def _bytes_of(out: Path) -> tuple[bytes, int]:
    data = (out / "model.exact").read_bytes()
    return data, 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize("place", ["index", "frames", "shapes"])
def test_a_damaged_file_is_refused(shop: Shop, tmp_path: Path, place: str) -> None:
    out = tmp_path / "published"
    shop.registry.fetch("net/sft", out, kind="published")
    data, start = _bytes_of(out)
    damaged = bytearray(data)
    if place == "index":
        damaged[8] = ord("[")
    elif place == "frames":
        damaged[start : start + 40] = bytes(40)
    else:
        document = parse(data[8:start], what="", limit=1 << 20, error=InvalidAdapterError, code="bad_exact")
        document["tensors"]["lm_head.weight"]["shape"] = [16, 40]
        lead = json.dumps(document, separators=(",", ":")).encode().ljust(start - 8)
        damaged[8:start] = lead
    (out / "model.exact").write_bytes(damaged)
    with pytest.raises(InvalidAdapterError) as refused:
        shop.registry.publish(out, "net/damaged")
    assert refused.value.code == ("shape_mismatch" if place == "shapes" else "bad_exact")


def test_a_dry_run_says_what_it_takes(shop: Shop) -> None:
    model = fine_tuned(shop.folder / "dry", shop.base, seed=9)
    found = shop.registry.preview(model.folder, "net/dry", full=True)
    assert {file.path for file in found.files} == {"config.json", "model.exact"}
    answer = shop.registry.publish(model.folder, "net/dry", full=True)
    assert answer.revision.digest == found.digest
    assert answer.revision.size == found.size
    assert "net/dry@1, whole tensors, on net" in repr(answer.revision)
    assert answer.revision.parameters == sum(
        one.data != read_model(shop.base.folder)[name].data and one.values.size
        for name, one in read_model(model.folder).items()
    )


def test_an_adapter_of_a_full_model_over_it(shop: Shop) -> None:
    """Extraction takes the exact model for the parent's weights."""
    model = Base(shop.folder / "sft", shop.base.modules, None)
    tuned = fine_tuned(shop.folder / "tuned", model, seed=8, frozen=("norm", "proj", "embed"), scale=0.01)
    answer = shop.registry.publish(tuned.folder, "net/sft/near", full=True, rank=16)
    assert answer.extracted is not None
    assert [one.module for one in answer.extracted.modules] == ["lm_head"]
    assert answer.extracted.error < 1e-6
    same_bits(shop.merged("net/sft/near"), tuned.folder)


@pytest.mark.slow_on("team")
@pytest.mark.parametrize("kind", ["team", "http"])
def test_elsewhere(kind: str, shop: Shop, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Published to a team's registry and over HTTP, copied there, and merged."""
    with opened_as(kind, request, tmp_path) as other:
        shop.registry.copy("net/sft/first/second", to=other)
        model = fine_tuned(tmp_path / "sft", shop.base, seed=4)
        assert "full fine-tune" in " ".join(other.preview(model.folder, "net/more", full=True).notices)
        other.publish(model.folder, "net/more", full=True)
        other.fetch("net/more", tmp_path / "more", kind="merged")
        same_bits(read_model(tmp_path / "more"), model.folder)
        other.fetch("net/sft/first/second", tmp_path / "second", kind="merged")
        assert read_model(tmp_path / "second") == shop.merged("net/sft/first/second")
        if isinstance(other, ServedRegistry):
            _pages_tell(other, "net/more@1")
            other.fetch("net/sft/first/second", tmp_path / "here", kind="merged", base_dir=shop.base.folder)
            assert read_model(tmp_path / "here") == read_model(tmp_path / "second")
