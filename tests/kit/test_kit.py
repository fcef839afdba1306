"""The kit itself is right: roundings by exact fractions, folders by transformers and PEFT, answers by PEFT.

The reference says what the shared cases say, of every case with an answer.

What is filled in bulk is what publishing writes, so that the two can't drift apart; and it fits its store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.tree import search
from registry.schemas.requests import SearchRequest
from registry.services.local import LocalRegistry
from tests.kit import (
    FORMATS,
    Base,
    RawTensor,
    bert_base,
    from_bytes,
    gpt2_base,
    grown,
    llama_base,
    plain_base,
    read_model,
    read_tensors,
    round_once,
    simulate,
    spacing,
    to_bytes,
    used_bound,
    write_adapter,
)
from tests.kit.peers import load_model, logits, no_complaints, peft_merge, save_model, train_adapter
from tests.root import ROOT


def _nearest_even(value: float, name: str) -> Fraction:
    """Rounding by its definition, in exact fractions."""
    chosen = FORMATS[name]
    exact = Fraction(value)
    exponent = chosen.lowest
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - chosen.digits + 1)
    return round(exact / unit) * unit  # Python rounds a Fraction half to even


@given(value=st.floats(-60000, 60000), name=st.sampled_from(["F32", "F16", "BF16"]))
@example(value=1 + 2**-8 + 2**-40, name="BF16")  # by way of float32 this becomes a tie and goes down
@example(value=1 + 2**-8, name="BF16")
@example(value=1 + 3 * 2**-8, name="BF16")
@example(value=3e-8, name="F16")
@example(value=1e-45, name="F32")
@example(value=0.0, name="BF16")
def test_rounds_once_to_nearest_even(value: float, name: str) -> None:
    rounded = float(round_once(np.array([value]), name)[0])
    assert Fraction(rounded) == _nearest_even(value, name)
    assert from_bytes(to_bytes(np.array([value]), name), name, (1,))[0] == rounded


def test_torch_rounds_twice_and_we_do_not() -> None:
    trap = 1 + 2**-8 + 2**-40
    assert float(torch.tensor([trap], dtype=torch.float64).to(torch.bfloat16)) == 1.0
    assert round_once(np.array([trap]), "BF16")[0] == 1 + 2**-7


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_number_survives(name: str) -> None:
    data = np.arange(2**16, dtype="<u2").tobytes()
    values = from_bytes(data, name, (2**16,))
    kept = np.isfinite(values)
    again = np.frombuffer(to_bytes(np.where(kept, values, 0.0), name), "<u2")
    expected = np.where(kept, np.arange(2**16), 0)
    assert np.array_equal(again[kept], expected[kept])


def test_too_large_becomes_infinite() -> None:
    assert round_once(np.array([65519.0, 65520.0, -65520.0]), "F16").tolist() == [65504.0, np.inf, -np.inf]


def test_spacing() -> None:
    assert spacing(np.array([1.0, 0.99, 2.0, 0.0]), "BF16").tolist() == [2**-7, 2**-8, 2**-6, 2.0**-133]


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).to(torch.bfloat16), "c": torch.randn(2, 2).half()}
    save_file(tensors, tmp_path / "theirs.safetensors")
    found = read_tensors(tmp_path / "theirs.safetensors")
    for name, tensor in tensors.items():
        assert np.array_equal(found[name].values, tensor.double().numpy())
    base = llama_base(tmp_path / "base", dtype="BF16", shards=3)
    ours = {name: t for path in base.folder.glob("*.safetensors") for name, t in load_file(path).items()}
    assert {name: raw.values.tolist() for name, raw in read_model(base.folder).items()} == {
        name: tensor.double().tolist() for name, tensor in ours.items()
    }


BASES: dict[str, Callable[..., Base]] = {"llama": llama_base, "gpt2": gpt2_base, "bert": bert_base}
TARGETS = {
    "llama": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
    "gpt2": ["c_attn", "c_proj", "wpe"],
    "bert": ["query", "dense", "word_embeddings"],
}
KINDS = sorted(BASES)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_writes_the_same_base(kind: str, tmp_path: Path) -> None:
    base = BASES[kind](tmp_path / "base")
    with no_complaints():
        save_model(tmp_path / "again", base.folder)
    ours, theirs = read_model(base.folder), read_model(tmp_path / "again")
    assert ours == theirs


def test_hub_names_load(tmp_path: Path) -> None:
    with no_complaints():
        load_model(gpt2_base(tmp_path / "base", hub_names=True).folder)


def _path(kind: str, base: Base, root: Path) -> list[Path]:
    # gpt2: wpe and wte are embeddings; merged one is wpe, because wte is tied to the head
    return [
        write_adapter(root / "1", base, TARGETS[kind], r=3, alpha=6, seed=1),
        write_adapter(root / "2", base, TARGETS[kind], r=5, alpha=2, rslora=True, seed=2),
        write_adapter(root / "3", base, TARGETS[kind], rank_pattern={TARGETS[kind][0]: 7}, seed=3),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_our_adapters_and_agrees_with_the_reference(kind: str, tmp_path: Path) -> None:
    base = BASES[kind](tmp_path / "base")
    path = _path(kind, base, tmp_path)
    peers = peft_merge(base.folder, path).state_dict()
    merged = base.reference(path)
    assert sum(tensor.touched for tensor in merged.values()) >= 4
    for name, tensor in merged.items():
        assert np.abs(peers[name].double().numpy() - tensor.values).max() < 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_reference_agrees_on_adapters_that_peft_made(kind: str, tmp_path: Path) -> None:
    base = BASES[kind](tmp_path / "base")
    model = load_model(base.folder)
    one, two = tmp_path / "1", tmp_path / "2"
    options: dict[str, Any] = {"target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2"}
    model = train_adapter(one, model, seed=1, r=4, lora_alpha=8, **options)
    model = train_adapter(two, model, seed=2, r=2, use_rslora=True, **options)
    merged = base.reference([one, two])
    state = model.state_dict()
    for name, tensor in merged.items():
        assert np.abs(state[name].double().numpy() - tensor.values).max() < 1e-5, name
    assert torch.isfinite(logits(model)).all()


def test_size_and_copies(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base", dtype="BF16")
    one = write_adapter(tmp_path / "1", base, ["q_proj"], size=0.01, seed=1)
    merged = base.reference([one])
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = merged[name].base.values
    assert np.linalg.norm(merged[name].values - weight) == pytest.approx(0.01 * np.linalg.norm(weight), rel=1e-5)
    two = write_adapter(tmp_path / "2", base, ["embed_tokens"], copies=[one])
    copy = read_tensors(two / "adapter_model.safetensors")["base_model.model.model.embed_tokens.base_layer.weight"]
    assert copy == merged["model.embed_tokens.weight"].base


def test_plain_base_has_linear_modules(tmp_path: Path) -> None:
    base = plain_base(tmp_path, {"a.weight": (3, 2), "a.bias": (3,), "b.c.weight": (4, 3)}, dtype="F64")
    assert sorted(base.modules) == ["a", "b.c"]
    assert isinstance(read_model(base.folder)["a.weight"], RawTensor)


def test_used_bound_sees_what_is_no_number_and_what_has_another_form(tmp_path: Path) -> None:
    base = plain_base(tmp_path, {"a.weight": (3, 2)})
    merged, right = base.reference([]), read_model(base.folder)["a.weight"]
    assert used_bound(merged, {"a.weight": right}) == 0
    wrong = right.values.copy()
    wrong[1, 1] = np.nan
    for bad in (RawTensor.of(wrong, "F32"), RawTensor.of(right.values.T, "F32"), RawTensor.of(right.values, "BF16")):
        assert used_bound(merged, {"a.weight": bad}) == np.inf
    assert used_bound(merged, {"a.weight": RawTensor.of(right.values * (1 + 2**-18), "F32")}) > 1


CASES = ROOT / "../shared/cases"


def _names() -> list[str]:
    found = [path.parents[1].name for path in sorted(CASES.glob("*/expected/merged.safetensors"))]
    return found or ["absent"]


def _case(name: str) -> dict[str, Any]:
    if name == "absent":
        pytest.skip(f"no cases at {CASES}")
    found: dict[str, Any] = json.loads((CASES / name / "case.json").read_text())
    return found


@pytest.mark.parametrize("name", _names())
def test_reference(name: str) -> None:
    case, root = _case(name), CASES / name
    found = simulate(root / case["base"], [root / adapter for adapter in case["path"]])
    expected = {key: raw.values for key, raw in read_tensors(root / "expected/merged.safetensors").items()}
    assert sorted(found.tensors) == sorted(expected)
    for key, values in expected.items():
        assert np.abs(found.tensors[key].values - values).max() < 1e-5, key
    assert found.untied == (case["config_changes"].get("tie_word_embeddings") is False)
    touched = {key for key, one in found.tensors.items() if one.touched}
    assert touched == set(case["changed_tensors"])


@pytest.mark.parametrize("name", _names())
def test_reference_at_each_depth(name: str) -> None:
    case, root = _case(name), CASES / name
    for depth in range(1, len(case["path"]) + 1):
        path = root / f"expected/depth_{depth}.safetensors"
        if not path.exists():
            continue
        found = simulate(root / case["base"], [root / adapter for adapter in case["path"][:depth]]).tensors
        for key, raw in read_tensors(path).items():
            assert np.abs(found[key].values - raw.values).max() < 1e-5, (depth, key)


COUNT = 250


def rows(url: str, how: object) -> dict[str, list[tuple[object, ...]]]:
    database = Database(url)
    database.prepare()
    with database.write() as session:
        how(session, COUNT)  # type: ignore[operator]
    with database.read() as session:
        found = grown.rows_of(session)
        found["searched"] = [
            (one.reference,)
            for text in ("low", "deep/l1", "OPS-")
            for one in search.search(session, SearchRequest(text=text))
        ]
    database.dispose()
    return found


@pytest.mark.slow
def test_filling_writes_what_publishing_writes(tmp_path: Path, postgres_url: str) -> None:
    published = rows(sqlite_url(tmp_path / "published.sqlite"), grown.publish)
    assert {name for name, found in published.items() if not found} == set()
    for url in (sqlite_url(tmp_path / "filled.sqlite"), postgres_url):
        filled = rows(url, grown.fill)
        for name, found in published.items():
            assert filled[name] == found, (name, url)


def test_the_tree_is_wide_and_deep_and_has_a_large_adapter() -> None:
    revisions = Counter(one.path for one in grown.planned(20_000))
    assert sum(revisions.values()) == 20_000
    assert revisions[grown.BIG] >= 4_000
    assert sum(path.startswith(f"{grown.WIDE}/customer-") for path in revisions) >= 150
    assert revisions[grown.DEEP] == 3


def test_a_filled_registry_has_its_bytes(tmp_path: Path) -> None:
    with LocalRegistry.open(tmp_path / "registry", create=True) as registry:
        with registry.deployment.database.write() as session:
            grown.fill(session, COUNT)
        grown.store(tmp_path / "registry", COUNT)
        checked = registry.fsck(deep=True)
        assert (checked.damage, checked.orphans) == ((), 0)
        assert checked.blobs > COUNT
        assert registry.gc(dry_run=True).blobs == ()
