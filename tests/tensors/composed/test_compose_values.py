"""One composed adapter equals the whole path, in the scale-1 normal form, and PEFT agrees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from tests.kit import (
    Base,
    gpt2_base,
    llama_base,
    plain_base,
    read_pairs,
    read_tensors,
    used_bound,
    write_adapter,
    write_chain,
    write_tensors,
)
from tests.kit.floats import Array, spacing
from tests.kit.peers import between_themselves, load_model, logits, no_complaints, peft_merge
from tests.kit.shelf import Shelf

TARGETS = ["q_proj", "v_proj", "down_proj"]
DTYPES = ["F32", "F16", "BF16", "F64"]


def _llama(shelf: Shelf, dtype: str = "F32") -> tuple[str, Base]:
    name = f"llama-{dtype.lower()}"
    return name, shelf.base(name, llama_base, dtype=dtype)


def _sums(base: Base, path: list[Path]) -> dict[str, tuple[Array, Array]]:
    """Module -> (sum s b a, sum |s b a|) of a path, oriented."""
    found: dict[str, tuple[Array, Array]] = {}
    for adapter in path:
        for module, pair in read_pairs(adapter).items():
            delta, spread = found.get(module, (np.zeros(1), np.zeros(1)))
            found[module] = (delta + pair.delta, spread + pair.spread)
    return found


def _assert_equal_to(path: list[Path], composed: Path, base: Base, dtype: str = "F32") -> None:
    """The composed pairs multiply out to the sum of the links, up to the rounding of the factors."""
    expected, pairs = _sums(base, path), read_pairs(composed)
    assert sorted(pairs) == sorted(expected)
    relative = 2.0**-20 + {"F32": 0.0, "F16": 2.0**-10, "BF16": 2.0**-7}[dtype]
    for module, (delta, spread) in expected.items():
        tiny = float(spacing(np.zeros(1), dtype)[0]) * 1e3  # what underflows in a factor
        assert (np.abs(pairs[module].delta - delta) <= relative * spread + tiny).all(), module


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found


def _assert_normal_form(folder: Path) -> None:
    config, pairs = _config(folder), read_pairs(folder)
    assert config["use_rslora"] is False
    assert config["use_dora"] is False
    assert config["r"] == config["lora_alpha"] == max(pair.rank for pair in pairs.values())
    assert config["rank_pattern"] == config["alpha_pattern"]
    for key in config["rank_pattern"]:
        matches = [module for module in pairs if re.match(rf"(.*\.)?({key})$", module)]
        assert len(matches) == 1, key
    for pair in pairs.values():
        assert pair.scaling == 1.0
        assert pair.rank == pair.a.shape[0] == pair.b.shape[1]


# --- values ---


@pytest.mark.parametrize("adapter_dtype", DTYPES)
def test_equals_the_path(shelf: Shelf, adapter_dtype: str) -> None:
    name, base = _llama(shelf)
    path = [
        write_adapter(shelf.folder(), base, TARGETS, r=3, alpha=7, dtype=adapter_dtype, seed=1),
        write_adapter(shelf.folder(), base, ["q_proj", "up_proj"], r=2, rslora=True, dtype=adapter_dtype, seed=2),
        write_adapter(shelf.folder(), base, ["v_proj"], rank_pattern={"layers.1.*": 5}, alpha=-3, seed=3),
    ]
    composed = shelf.composed(shelf.path(name, path))
    _assert_equal_to(path, composed, base)
    _assert_normal_form(composed)
    assert {raw.dtype for raw in read_tensors(composed / "adapter_model.safetensors").values()} == {"F32"}


def test_a_is_what_was_published_root_first(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 3, ["q_proj"], r=4)
    pairs = read_pairs(shelf.composed(shelf.path(name, path)))
    for module, pair in pairs.items():
        published = np.concatenate([read_pairs(adapter)[module].a for adapter in path])
        assert np.array_equal(pair.a, published)


def test_powers_of_two_are_lossless(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 2, ["q_proj"], r=4, alpha=16)
    pairs = read_pairs(shelf.composed(shelf.path(name, path)))
    for module, pair in pairs.items():
        published = np.concatenate([4.0 * read_pairs(adapter)[module].b for adapter in path], axis=1)
        assert np.array_equal(pair.b, published)


@pytest.mark.parametrize("option", ["bf16", "fp16", "fp32"])
def test_dtype_option(shelf: Shelf, option: str) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 2, TARGETS, r=4)
    composed = shelf.composed(shelf.path(name, path), dtype=option)
    dtype = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[option]
    assert {raw.dtype for raw in read_tensors(composed / "adapter_model.safetensors").values()} == {dtype}
    _assert_equal_to(path, composed, base, dtype)
    _assert_normal_form(composed)


def test_embeddings(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 2, ["embed_tokens", "lm_head", "q_proj"], r=3)
    composed = shelf.composed(shelf.path(name, path))
    _assert_equal_to(path, composed, base)
    _assert_normal_form(composed)
    keys = read_tensors(composed / "adapter_model.safetensors")
    assert "base_model.model.model.embed_tokens.lora_embedding_A" in keys
    assert not [key for key in keys if "base_layer" in key]


def test_embeddings_past_their_width(shelf: Shelf) -> None:
    """Ranks above the 16 features: B is the identity's side, and the pair is still an embedding's."""
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 3, ["embed_tokens"], r=7)
    composed = shelf.composed(shelf.path(name, path))
    pair = read_pairs(composed)["model.embed_tokens"]
    assert pair.embedding
    assert pair.a.shape == (16, 40)
    assert np.array_equal(pair.b, np.eye(16))
    _assert_equal_to(path, composed, base)
    state = peft_merge(base.folder, [composed]).state_dict()
    merged = base.reference(path)["model.embed_tokens.weight"]
    assert np.abs(state["model.embed_tokens.weight"].double().numpy() - merged.values).max() < 1e-5


LINKS = st.fixed_dictionaries(
    {
        "r": st.integers(1, 30),
        "alpha": st.one_of(st.integers(1, 64), st.floats(-4, 4, allow_nan=False, width=32)),
        "rslora": st.booleans(),
        "dtype": st.sampled_from(DTYPES),
        "seed": st.integers(0, 10**6),
    }
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(links=st.lists(LINKS, min_size=1, max_size=5), data=st.data())
def test_generated_paths(shelf: Shelf, links: list[dict[str, Any]], data: st.DataObject) -> None:
    shapes = {"a.weight": (24, 40), "b.weight": (40, 24), "c.weight": (1, 9), "d.weight": (200, 3)}
    base = shelf.base("plain", plain_base, shapes=shapes)
    path = []
    for link in links:
        names = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        path.append(write_adapter(shelf.folder(), base, names, **link))
    composed = shelf.composed(shelf.path("plain", path))
    _assert_equal_to(path, composed, base)
    _assert_normal_form(composed)


# --- ranks above the matrix ---


@pytest.mark.parametrize(("shape", "identity"), [((24, 8), "a"), ((8, 24), "b"), ((16, 16), "either")])
def test_ranks_above_the_matrix_become_an_identity_and_the_delta(
    shelf: Shelf, shape: tuple[int, int], identity: str
) -> None:
    name = f"small-{shape[0]}"
    base = shelf.base(name, plain_base, shapes={"a.weight": shape, "b.weight": (64, 64)})
    path = write_chain(shelf.folder(), base, 3, ["a", "b"], r=7)
    composed = shelf.composed(shelf.path(name, path))
    pair = read_pairs(composed)["a"]
    smaller = min(shape)
    assert pair.rank == smaller
    is_identity = {"a": np.array_equal(pair.a, np.eye(smaller)), "b": np.array_equal(pair.b, np.eye(smaller))}
    assert is_identity["a"] or is_identity["b"] if identity == "either" else is_identity[identity]
    _assert_equal_to(path, composed, base)
    _assert_normal_form(composed)
    assert read_pairs(composed)["b"].rank == 21


def test_rank_as_large_as_the_matrix_stays_factored(shelf: Shelf) -> None:
    base = shelf.base("small-24", plain_base, shapes={"a.weight": (24, 8), "b.weight": (64, 64)})
    path = write_chain(shelf.folder(), base, 2, ["a"], r=4)
    pair = read_pairs(shelf.composed(shelf.path("small-24", path)))["a"]
    assert np.array_equal(pair.a, np.concatenate([read_pairs(adapter)["a"].a for adapter in path]))


# --- since ---


def test_since_gives_the_links_after_an_ancestor(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 4, TARGETS, r=2)
    references = shelf.publish(name, path)
    for kept in (1, 3):
        composed = shelf.composed(references[-1], since=references[kept - 1])
        _assert_equal_to(path[kept:], composed, base)
        _assert_normal_form(composed)


def test_since_goes_on_the_ancestors_merged_weights(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 3, TARGETS, r=2)
    references = shelf.publish(name, path)
    below, rest = shelf.folder(), shelf.composed(references[-1], since=references[0])
    shelf.registry.fetch(references[0], below, kind="merged")
    with no_complaints():
        state = peft_merge(below, [rest]).state_dict()
    for tensor, one in base.reference(path).items():
        assert np.abs(state[tensor].double().numpy() - one.values).max() < 1e-5


# --- published ---


def test_published_files_are_the_bytes_that_were_given(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    adapter = write_adapter(shelf.folder(), base, TARGETS, dtype="BF16")
    (adapter / "README.md").write_text("# Card\n")
    (adapter / "extra").mkdir()
    (adapter / "extra" / "notes.json").write_text("{}")
    out = shelf.folder()
    shelf.registry.fetch(shelf.path(name, [adapter]), out, kind="published")
    given_files = {path.relative_to(adapter): path.read_bytes() for path in adapter.rglob("*") if path.is_file()}
    fetched = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    fetched.pop(Path("registry-receipt.json"))
    assert fetched == given_files


# --- PEFT ---


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_it_without_a_word_and_gets_our_merged_weights(shelf: Shelf, kind: str) -> None:
    if kind == "llama":
        name, base = _llama(shelf)
        targets = [*TARGETS, "embed_tokens", "lm_head"]
    else:
        name, base = "gpt2", shelf.base("gpt2", gpt2_base)
        targets = ["c_attn", "c_proj", "wpe"]
    path = [
        write_adapter(shelf.folder(), base, targets, r=3, alpha=5, seed=1),
        write_adapter(shelf.folder(), base, targets[:2], r=12, rslora=True, seed=2),  # past v_proj's 8 rows
        write_adapter(shelf.folder(), base, targets[1:], r=2, seed=3),
    ]
    reference = shelf.path(name, path)
    composed, merged = shelf.composed(reference), shelf.merged(reference)
    with no_complaints():
        model = peft_merge(base.folder, [composed])
    state = model.state_dict()
    for tensor, raw in merged.items():
        assert np.abs(state[tensor].double().numpy() - raw.values).max() < 2e-6, tensor
    assert used_bound(base.reference(path), merged) <= 1


def test_peft_computes_the_same_with_it_unmerged(shelf: Shelf) -> None:
    name, base = _llama(shelf)
    path = write_chain(shelf.folder(), base, 3, TARGETS, r=2)
    composed = shelf.composed(shelf.path(name, path))
    with no_complaints(), between_themselves():
        ours = peft.PeftModel.from_pretrained(load_model(base.folder), str(composed)).eval()
    assert torch.allclose(logits(ours), logits(peft_merge(base.folder, path)), atol=1e-5)


def test_the_config_has_no_pattern_for_other_modules(shelf: Shelf) -> None:
    """Names that are the end of other names: only the adapted one may get a pair when PEFT loads it."""
    shapes = {"proj.weight": (8, 8), "deep.proj.weight": (8, 8), "deep.xproj.weight": (8, 8)}
    base = shelf.base("endings", plain_base, shapes=shapes)
    adapter = write_adapter(shelf.folder(), base, config={"target_modules": r"proj"}, modules=["proj"])
    tensors = read_tensors(adapter / "adapter_model.safetensors")
    kept = {key: raw for key, raw in tensors.items() if ".model.proj." in key}
    write_tensors(adapter / "adapter_model.safetensors", kept)
    composed = shelf.composed(shelf.path("endings", [adapter]))
    target_modules = _config(composed)["target_modules"]

    class Deep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj, self.xproj = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj, self.deep = torch.nn.Linear(8, 8, bias=False), Deep()

    with no_complaints(), between_themselves():
        model = peft.PeftModel.from_pretrained(Net(), str(composed))
    adapted = [key for key in model.state_dict() if "lora_A" in key]
    assert adapted == ["base_model.model.proj.lora_A.default.weight"], target_modules


def test_a_pattern_is_of_one_module(shelf: Shelf) -> None:
    """Modules of two ranks, one of whose names is the end of the other's: each gets its own from PEFT's look-up."""
    base = shelf.base("ends", plain_base, shapes={"proj.weight": (8, 8), "deep.proj.weight": (8, 8)})
    path = []
    for name, rank in (("proj", 2), ("deep.proj", 5)):
        adapter = write_adapter(shelf.folder(), base, r=rank, config={"target_modules": re.escape(name)})
        tensors = read_tensors(adapter / "adapter_model.safetensors")
        kept = {key: raw for key, raw in tensors.items() if f".model.{name}." in key}
        write_tensors(adapter / "adapter_model.safetensors", kept)
        path.append(adapter)
    config = _config(shelf.composed(shelf.path("ends", path)))
    for name, rank in (("proj", 2), ("deep.proj", 5)):
        for field, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
            key = get_pattern_key(config[field].keys(), name)
            assert config[field].get(key, config[default]) == rank, (name, config)
