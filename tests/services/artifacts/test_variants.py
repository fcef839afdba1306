"""Every variant, on every kind of base, at every depth: merged and composed are what the independent reference says.

The reference (`tests.kit.simulate`) knows PEFT's checkpoints and no code of the registry. A composed adapter is judged
by it too: applied to the original base it must give what the path gives.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint import key_grammar, reading
from registry.tensors.checkpoint.variants.draft import Variant
from registry.tensors.checkpoint.variants.table import VARIANTS as ROWS
from tests.kit import Base, RawTensor, plain_base, read_model, read_tensors, used_bound, write_model, write_tensors
from tests.kit.floats import Array
from tests.kit.merged_tensor import SUM_ERROR
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

DTYPES = ["F32", "BF16", "F16"]
NARROW = {"llama": "BF16", "gpt2": "F16", "conv": "BF16", "attention": "F16", "declared": "BF16"}
"""Kinds of bases that the quick tests try in 16 bits too: adding a base that transformers knows takes seconds."""

EVERY = [(kind, name) for kind, recipes in VARIANTS.items() for name in recipes]


def _base(shelf: Shelf, kind: str, dtype: str) -> tuple[str, Base]:
    name = f"{kind.replace(' ', '-').replace('_', '-')}-{dtype.lower()}"
    return name, shelf.base(name, MAKERS[kind], dtype=dtype)


def _recipes(kind: str, names: Sequence[str], **changes: Any) -> list[Recipe]:
    """The recipes of these names, each with a seed of its own."""
    return [
        dataclasses.replace(VARIANTS[kind][name], seed=number, **changes) for number, name in enumerate(names, start=1)
    ]


def _check(shelf: Shelf, kind: str, dtype: str, recipes: Sequence[Recipe]) -> None:
    """Publish the path; merged and composed are right."""
    name, base = _base(shelf, kind, dtype)
    path = write_recipes(shelf.folder(), base, recipes)
    reference = shelf.path(name, path)
    expected = base.simulate(path)
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    _check_merged(base, out, path)
    if _beyond_peft(recipes):
        with pytest.raises(InvalidAdapterError) as refused:
            shelf.composed(reference)
        assert refused.value.code == "not_composable"
        return
    composed = shelf.composed(reference)
    assert _differences(base, composed, path) == {}
    config = json.loads((composed / "adapter_config.json").read_text())
    if not any(recipe.dora for recipe in recipes):
        assert not config["use_dora"]
    if expected.untied:
        assert not config.get("ensure_weight_tying")


def _check_merged(base: Base, out: Path, path: Sequence[Path]) -> None:
    expected, found = base.simulate(path), read_model(out)
    floats = {name for name, raw in found.items() if raw.dtype in ("F64", "F32", "F16", "BF16")}
    assert floats == set(expected.tensors)
    before = read_model(base.folder)
    assert used_bound(expected.tensors, found) <= 1
    assert [name for name, one in expected.tensors.items() if not one.touched and found[name] != before[name]] == []
    config, old = (json.loads((folder / "config.json").read_text()) for folder in (out, base.folder))
    changed = {name for name in {*config, *old} if config.get(name) != old.get(name)}
    assert changed <= ({"tie_word_embeddings"} if expected.untied else set())
    if expected.untied:
        assert config["tie_word_embeddings"] is False


def _differences(base: Base, composed: Path, path: Sequence[Path]) -> dict[str, float]:
    """Tensors that the composed adapter makes of the base, and the path doesn't: largest error as a share of the bound.

    Twice the error of a sum: the factors of the composed adapter are rounded, and its magnitudes are norms.
    """
    expected, found = base.simulate(path), base.simulate([composed])
    assert set(found.tensors) == set(expected.tensors)
    shares = {
        name: float(np.max(np.abs(found.tensors[name].values - one.values) / (2 * SUM_ERROR * one.magnitude + 1e-30)))
        for name, one in expected.tensors.items()
    }
    return {name: share for name, share in shares.items() if share > 1}


def _beyond_peft(recipes: Sequence[Recipe]) -> bool:
    """Whether no single adapter of PEFT can be the path: DoRA beside pairs on experts or on nn.MultiheadAttention.

    Experts that a link replaces are saved whole, with all that comes after.
    """
    others = [recipe for recipe in recipes if recipe.parameters or {"attn", "w1", "w3"} & set(recipe.targets)]
    whole = any("experts" in recipe.replaced for recipe in recipes)
    return any(recipe.dora for recipe in recipes) and bool(others) and not whole


# --- each variant alone, and after itself ---


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_one_link(shelf: Shelf, kind: str, name: str) -> None:
    _check(shelf, kind, "F32", _recipes(kind, [name]))


@pytest.mark.long_but(
    "llama-plain",
    "llama-dora",
    "llama-dora embedding",
    "llama-tokens",
    "llama-new head",
    "llama-embedding and head",
    "llama-negative alpha",
    "llama-zero alpha",
    "llama-patterns",
    "llama-blocks",
    "conv-plain",
    "conv-dora of some",
    "conv-new conv",
    "conv-biases",
    "attention-plain",
    "attention-fixed peft",
)
@pytest.mark.long_on("gpt2", "declared")
@pytest.mark.parametrize(("kind", "name"), [one for one in EVERY if one[0] in NARROW])
def test_twice_on_a_narrow_base(shelf: Shelf, kind: str, name: str) -> None:
    _check(shelf, kind, NARROW[kind], _recipes(kind, [name, name]))


# --- the table's rows: each is held by a sample that is right with it, and wrong or refused without it ---

SAMPLES: dict[str, tuple[str, str] | dict[str, Any]] = {
    "other tuners": {"peft_type": "VERA"},
    "no change of weights": {"layer_replication": [[0, 2]]},
    "initialisations": {"init_lora_weights": "pissa"},
    "LoRA files": {"registry": {"format": "kohya", "file": "style.safetensors", "alphas": {}}},
    "training only": {"velora_config": {"rank": 2}},
    "LoHa and LoKr": ("llama", "loha"),
    "parameters": ("gpt_oss", "up only"),
    "experts by file": ("mixtral", "each expert"),
    "attention": ("attention", "plain"),
    "convolution": ("conv", "some"),
    "block-diagonal": ("llama", "blocks"),
    "pairs": ("llama", "plain"),
    "DoRA": ("llama", "dora"),
    "biases": ("gpt2", "bias"),
    "token rows": ("llama", "tokens"),
    "saved modules": ("llama", "new linear"),
    "saved embeddings": ("llama", "embedding and head"),
    "ties": ("tied llama", "kept"),
    "without effect": {"merge_weights": True},
}
"""A recipe, or fields of a plain one, for each row of `registry.tensors.checkpoint.variants.table`."""
REFUSED = {
    "other tuners": "unsupported_peft_type",
    "no change of weights": "layer_replication",
    "initialisations": "base_shifting_init",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_what_its_sample_needs(shelf: Shelf, row: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert row.name in SAMPLES, f"add a sample of {row.name!r} to SAMPLES: a recipe that is wrong without this row"
    sample = SAMPLES[row.name]
    if isinstance(sample, dict):
        kind, recipes = "llama", _recipes("llama", ["plain"], config=sample)
    else:
        kind, recipes = sample[0], _recipes(sample[0], [sample[1]])
    name, base = _base(shelf, kind, "F32")
    path = write_recipes(shelf.folder(), base, recipes)

    def outcome() -> str:
        try:
            found = shelf.merged(shelf.path(name, path))
        except InvalidAdapterError as refused:
            return refused.code
        except KeyError:
            return "no rule"
        return "right" if used_bound(base.simulate(path).tensors, found) <= 1 else "wrong"

    expected = REFUSED.get(row.name, "right")
    assert outcome() == expected
    monkeypatch.setattr(reading, "VARIANTS", tuple(one for one in ROWS if one is not row))
    for module, table, own in ((reading, "RULES", row.fields), (key_grammar, "TAILS", row.tails)):
        monkeypatch.setattr(
            module, table, {key: value for key, value in getattr(module, table).items() if key not in own}
        )
    assert outcome() != expected


# --- DoRA anywhere, on every kind of module ---

DORA = {
    "llama": ("plain", "dora"),
    "gpt2": ("plain", "dora"),
    "opt": ("plain", "dora"),
    "conv": ("plain", "dora"),
    "tied llama": ("head", "dora head"),
}
PLACES = {
    "root": (1, 0, 0),
    "middle": (0, 1, 0),
    "leaf": (0, 0, 1),
    "twice": (1, 0, 1),
    "in a row": (0, 1, 1, 0),
    "everywhere": (1, 1, 1),
}


@pytest.mark.long_on("gpt2", "opt", "tied llama")
@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("kind", sorted(DORA))
def test_dora_anywhere(shelf: Shelf, kind: str, place: str) -> None:
    names = [DORA[kind][dora] for dora in PLACES[place]]
    _check(shelf, kind, "F32", _recipes(kind, names))


def test_dora_of_other_modules_than_its_neighbours(shelf: Shelf) -> None:
    _check(shelf, "llama", "BF16", _recipes("llama", ["plain", "dora", "dora of others", "one layer"]))


def test_dead_dora_leaves_a_plain_adapter(shelf: Shelf) -> None:
    """All that DoRA did is replaced later: what remains is no DoRA."""
    recipes = [Recipe(("lm_head",), dora=True, seed=1), Recipe(("q_proj",), replaced=("lm_head",), seed=2)]
    name, base = _base(shelf, "llama", "F32")
    path = write_recipes(shelf.folder(), base, recipes)
    composed = shelf.composed(shelf.path(name, path))
    assert _differences(base, composed, path) == {}
    assert json.loads((composed / "adapter_config.json").read_text())["use_dora"] is False


@pytest.mark.parametrize("after", ["", "plain", "dora", "one layer"])
def test_a_negative_magnitude(shelf: Shelf, after: str) -> None:
    """Training may take a magnitude through zero; the row changes its sign."""
    base, path, reference = _with_magnitudes(shelf, -1.0, after)
    assert used_bound(base.reference(path), shelf.merged(reference)) <= 1
    assert _differences(base, shelf.composed(reference), path) == {}


@pytest.mark.parametrize("after", ["", "dora of others", "plain", "dora"])
def test_a_zero_magnitude(shelf: Shelf, after: str) -> None:
    """A row of zeros is what it means; what a child adds to that row has no form on the original base."""
    base, path, reference = _with_magnitudes(shelf, 0.0, after)
    assert used_bound(base.reference(path), shelf.merged(reference)) <= 1
    if after:
        with pytest.raises(InvalidAdapterError, match="magnitude of 0") as refused:
            shelf.composed(reference)
        assert refused.value.code == "not_composable"
    else:
        assert _differences(base, shelf.composed(reference), path) == {}


def test_a_zero_row_under_dora(shelf: Shelf) -> None:
    """DoRA divides by its norm: refused, in every form, and never NaN."""
    base = plain_base(shelf.folder(), {"a.weight": (6, 5)})
    weight = read_model(base.folder)["a.weight"].values
    weight[2] = 0
    write_model(base.folder, {"a.weight": RawTensor.of(weight, "F32")})
    shelf.registry.add_base("zero-row", base.folder)
    path = write_recipes(shelf.folder(), base, [Recipe(("a",), dora=True)])
    _change(path[0], "lora_B.weight", lambda values: values.__setitem__(2, 0))
    _change(path[0], "lora_magnitude_vector", lambda values: values.__setitem__(2, 1.5))
    for kind in ("merged", "lora"):
        with pytest.raises(InvalidAdapterError) as refused:  # already when it is published, or when it is fetched
            shelf.registry.fetch(shelf.path("zero-row", path), shelf.folder(), kind=kind)
        assert refused.value.code == "zero_norm"


def _with_magnitudes(shelf: Shelf, factor: float, after: str) -> tuple[Base, list[Path], str]:
    """A path whose first link has every second magnitude times ``factor``."""
    name, base = _base(shelf, "llama", "F32")
    path = write_recipes(shelf.folder(), base, _recipes("llama", ["dora", *([after] if after else [])]))

    def change(values: Array) -> None:
        values[::2] *= factor

    _change(path[0], "lora_magnitude_vector", change)
    return base, path, shelf.path(name, path)


def _change(folder: Path, tail: str, change: Callable[[Array], None]) -> None:
    """Change the values of the adapter's tensors with that tail."""
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    for key, raw in tensors.items():
        if key.endswith(tail):
            values = raw.values
            change(values)
            tensors[key] = RawTensor.of(values, raw.dtype)
    write_tensors(file, tensors)


# --- any path ---


@st.composite
def _paths(draw: st.DrawFn, dtypes: dict[str, list[str]]) -> tuple[str, str, list[Recipe]]:
    kind = draw(st.sampled_from(sorted(VARIANTS)))
    names = draw(st.lists(st.sampled_from(sorted(VARIANTS[kind])), min_size=2, max_size=4))
    changes = {
        "dtype": draw(st.sampled_from(["F32", "F32", "BF16", "F16", "F64"])),
        "r": draw(st.sampled_from([2, 4, 6])),
        "scale": draw(st.sampled_from([0.1, 1.0, 20.0])),
    }
    recipes = [dataclasses.replace(one, copies=False) for one in _recipes(kind, names, **changes)]
    return kind, draw(st.sampled_from(dtypes[kind])), recipes


QUICK = {kind: ["F32", *([NARROW[kind]] if kind in NARROW else [])] for kind in VARIANTS}


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=_paths(QUICK))
def test_any_path(shelf: Shelf, drawn: tuple[str, str, list[Recipe]]) -> None:
    _check(shelf, *drawn)


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_every_pair_of_links(shelf: Shelf, kind: str, dtype: str) -> None:
    """Each pair of links with one dtype, and each link with each dtype in both places."""
    places = enumerate(VARIANTS[kind])
    for (row, first), (column, second) in itertools.product(list(places), repeat=2):
        if DTYPES[(row + column) % len(DTYPES)] == dtype:
            _check(shelf, kind, dtype, _recipes(kind, (first, second)))


@pytest.mark.long
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=_paths(dict.fromkeys(VARIANTS, DTYPES)))
def test_any_path_at_length(shelf: Shelf, drawn: tuple[str, str, list[Recipe]]) -> None:
    _check(shelf, *drawn)
