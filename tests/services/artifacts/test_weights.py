"""Weights of links: the values, what pins them, and that nothing weighted passes for what is not, and the other way.

The oracle knows no weights: it is the independent reference (`tests.kit.simulate`) over copies of the adapters whose
alphas were multiplied, and PEFT's own ``set_scale``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import ConflictError, IntegrityError, InvalidAdapterError, UsageError
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from tests.kit import Base, RawTensor, plain_base, read_model, used_bound, write_adapter, write_model
from tests.kit.merged_tensor import SUM_ERROR
from tests.kit.peers import between_themselves, load_model
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.registries import ON_HTTP, opened_as
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS
from tests.kit.weighed import weighed_path

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}
KINDS = ("llama", "gpt2", "conv", "opt", "attention", "mixtral")
EVERY = [
    pytest.param(kind, name, marks=() if kind == "conv" else pytest.mark.long)  # the others take a second each
    for kind in KINDS
    for name in VARIANTS[kind]
]
SOUND = ("emb", "c1", "c2", "c3", "head")
"""Modules of the net of convolutions that PEFT merges; a pointwise one in three dimensions it can't."""
LLAMA = ("plain", "dora", "rslora")
OTHER = {"attention": "ranks", "mixtral": "fused"}
"""The link above, where a kind has no ``plain``."""


def replaces(recipe: Recipe) -> bool:
    return bool(recipe.replaced or recipe.tokens or recipe.bias != "none")


def recipes_of(kind: str, *names: str) -> list[Recipe]:
    return [dataclasses.replace(VARIANTS[kind][name], seed=at) for at, name in enumerate(names, start=1)]


def check_merged(base: Base, expected: Sequence[Path], found: Path) -> None:
    assert used_bound(base.reference(expected), read_model(found)) <= 1


def check_composed(base: Base, expected: Sequence[Path], composed: Path) -> None:
    """Put on the base, the composed adapter gives what the path gives, up to the rounding of its factors."""
    wanted, got = base.reference(expected), base.reference([composed])
    for name, one in wanted.items():
        bound = 2 * SUM_ERROR * one.magnitude + 1e-30
        assert (np.abs(got[name].values - one.values) <= bound).all(), name


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_variant(shelf: Shelf, kind: str, name: str) -> None:
    """A weight multiplies all that a link adds, whatever it adds it to; what replaces values has none."""
    base_name = kind.replace("_", "-")
    base = shelf.base(base_name, MAKERS[kind])
    above = OTHER.get(kind, "plain")
    recipes = recipes_of(kind, above, name)
    path = write_recipes(shelf.folder(), base, recipes)
    ref = shelf.path(base_name, path)
    weights = (-0.75, 0.8)
    if replaces(recipes[1]):
        with pytest.raises(InvalidAdapterError) as refused:
            shelf.merged(ref, weights=weights[1])
        assert refused.value.code == "not_weighable"
        return
    expected = weighed_path(shelf.folder(), path, weights)
    by_name = dict(zip(names_of(ref), weights, strict=True))
    out = shelf.folder()
    shelf.registry.fetch(ref, out, kind="merged", weights=by_name)
    check_merged(base, expected, out)
    assert shelf.registry.verify(out).exact
    if kind in ("attention", "mixtral") and recipes[1].dora:  # no adapter of PEFT is that path
        with pytest.raises(InvalidAdapterError, match="no single PEFT adapter"):
            shelf.composed(ref, weights=by_name)
        return
    composed = shelf.composed(ref, weights=by_name)
    check_composed(base, expected, composed)
    assert shelf.registry.verify(composed).exact


def names_of(ref: str) -> list[str]:
    """The paths of the links of a reference."""
    parts = ref.partition("@")[0].split("/")
    return ["/".join(parts[: at + 1]) for at in range(1, len(parts))]


WEIGHTS = st.floats(-4, 4).filter(lambda value: value == 0 or abs(value) > 1e-6)


@pytest.fixture(scope="module")
def deep(shelf: Shelf) -> tuple[Base, list[Path], str]:
    """A path of three links on linear modules, convolutions and an embedding."""
    base = shelf.base("conv", MAKERS["conv"])
    path = write_recipes(shelf.folder(), base, recipes_of("conv", "plain", "some", "lora bias"))
    return base, path, shelf.path("conv", path)


@settings(max_examples=10, deadline=None)
@given(weights=st.lists(WEIGHTS, min_size=3, max_size=3), dtype=st.sampled_from([None, "bf16", "fp16", "fp32"]))
def test_any_weights_at_depth_3(
    shelf: Shelf, deep: tuple[Base, list[Path], str], weights: list[float], dtype: Any
) -> None:
    base, path, ref = deep
    expected = weighed_path(shelf.folder(), path, weights)
    by_name = dict(zip(names_of(ref), weights, strict=True))
    found = shelf.read_merged(ref, weights=by_name, dtype=dtype)
    written = {None: None, "bf16": "BF16", "fp16": "F16", "fp32": "F32"}[dtype]
    assert used_bound(base.reference(expected), found, written) <= 1
    if dtype is None:
        check_composed(base, expected, shelf.composed(ref, weights=by_name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("conv", Recipe(SOUND, dora=True)), ("conv", Recipe(SOUND[1:], lora_bias=True, rslora=True, r=3))]
    + [pytest.param("llama", VARIANTS["llama"][one], marks=pytest.mark.long) for one in LLAMA],
)
def test_peft_set_scale(shelf: Shelf, kind: str, recipe: Recipe) -> None:
    """PEFT merges the same after ``set_scale``, which is what diffusers' ``set_adapters`` calls."""
    from peft import PeftModel
    from peft.tuners.lora.layer import LoraLayer

    base = shelf.base(kind, MAKERS[kind])
    path = write_recipes(shelf.folder(), base, [Recipe(recipe.targets, seed=1), dataclasses.replace(recipe, seed=2)])
    weights = (0.6, 1.25)
    model = load_model(base.folder)
    for adapter, weight in zip(path, weights, strict=True):
        with between_themselves():
            model = PeftModel.from_pretrained(model, str(adapter))
            for module in model.modules():
                if isinstance(module, LoraLayer):
                    module.set_scale("default", weight)
            model = model.merge_and_unload()
    ref = shelf.path(kind, path)
    found = shelf.read_merged(ref, weights=dict(zip(names_of(ref), weights, strict=True)))
    peers, plain = model.state_dict(), shelf.read_merged(ref)
    for name, raw in found.items():
        assert torch.allclose(torch.from_numpy(raw.values).float(), peers[name], atol=1e-6), name
    assert any((raw.values != plain[name].values).any() for name, raw in found.items())


# ---------------------------------------------------------------------------------------------- identity and receipts


class House:
    """A path of two links on a plain base, in a registry of this process or behind a service."""

    def __init__(self, registry: Registry, local: LocalRegistry, root: Path) -> None:
        self.registry, self.local, self.root = registry, local, root
        self.base = plain_base(root / "base", SHAPES)
        tensors = read_model(self.base.folder)
        values = {name: raw.values for name, raw in tensors.items()}
        values["b.weight"][0, :4] = -0.0  # which adding 0 would make 0
        write_model(self.base.folder, {name: RawTensor.of(one, "F32") for name, one in values.items()})
        local.add_base("net", self.base.folder)
        self.path = [write_adapter(root / f"{seed}", self.base, ["a", "b"], r=2, seed=seed) for seed in (1, 2)]
        local.publish(self.path[0], "net/style")
        local.publish(self.path[1], "net/style/char", parent="net/style@1", skip_parent_check=True, tags=["prod"])
        self._made = 0

    def folder(self) -> Path:
        self._made += 1
        return self.root / f"out-{self._made}"

    def fetched(self, ref: str, **options: Any) -> tuple[str, dict[str, bytes]]:
        """The rendering, and the files without the receipt."""
        out = self.folder()
        answer = self.registry.fetch(ref, out, **options)
        assert self.registry.verify(out).equal
        return answer.rendering, {
            file.name: file.read_bytes() for file in out.iterdir() if file.is_file() and file.name != RECEIPT
        }


@pytest.fixture(scope="module", params=["embedded", ON_HTTP])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    with opened_as(request.param, request, root) as registry:
        yield House(registry, registry if isinstance(registry, LocalRegistry) else registry.local, root)


REF = "net/style/char@1"
ALIKE: list[tuple[str, dict[str, Any]]] = [
    (f"{REF}:0.8", {}),
    ("net/style/char@prod:0.80", {}),
    (REF, {"weights": 0.8}),
    (REF, {"weights": {"char": 0.8}}),
    (REF, {"weights": {"net/style/char@1": 0.8, "style": 1}}),
    (REF, {"weights": "8e-1"}),
]


@pytest.mark.parametrize("kind", ["merged", "lora"])
def test_all_spellings_are_one(house: House, kind: Any) -> None:
    plain = house.fetched(REF, kind=kind)
    found = [house.fetched(ref, kind=kind, **options) for ref, options in ALIKE]
    assert all(one == found[0] for one in found)
    assert found[0][0] != plain[0]
    assert found[0][1] != plain[1]


@pytest.mark.parametrize("kind", ["merged", "lora"])
@pytest.mark.parametrize("weights", [1, {"style": 1, "char": 1.0}, {}])
def test_a_weight_of_1_is_none(house: House, kind: Any, weights: Any) -> None:
    """The same rendering and the same bytes; and a materialisation is served for it."""
    assert house.fetched(REF, kind=kind, weights=weights) == house.fetched(REF, kind=kind)


def test_no_two_weights_are_confused(house: House) -> None:
    """One by one through the same caches, in both orders, with a materialisation of the plain path there."""
    house.local.materialise(REF, kind="merged")
    given: list[Any] = [None, 0.8, 0.8000000000000002, -0.8, 0, {"style": 0.8}, {"style": 0.8, "char": 0.8}]
    first = [house.fetched(REF, kind="merged", weights=one) for one in given]
    again = [house.fetched(REF, kind="merged", weights=one) for one in reversed(given)]
    assert again[::-1] == first
    assert len({rendering for rendering, _ in first}) == len(given)
    expected = [(1, 1), (1, 0.8), (1, 0.8), (1, -0.8), (1, 0), (0.8, 1), (0.8, 0.8)]
    for weights, (_, files) in zip(expected, first, strict=True):
        out = house.folder()
        out.mkdir()
        for name, data in files.items():
            (out / name).write_bytes(data)
        check_merged(house.base, weighed_path(house.folder(), house.path, weights), out)
    cached = [house.registry.fetch(REF, kind="merged", weights=one) for one in given]
    assert [one.rendering for one in cached] == [rendering for rendering, _ in first]
    assert len({one.folder for one in cached}) == len(given)


def test_0_leaves_a_link_out(house: House) -> None:
    merged = house.fetched(REF, kind="merged", weights=0)[1]["model.safetensors"]
    assert merged == house.fetched("net/style@1", kind="merged")[1]["model.safetensors"]
    both = house.fetched(REF, kind="merged", weights={"style": 0, "char": -0.0})[1]["model.safetensors"]
    assert both == (house.base.folder / "model.safetensors").read_bytes()


def test_the_receipt_pins_them(house: House) -> None:
    out, again = house.folder(), house.folder()
    answer = house.registry.fetch(f"{REF}:0.8", out, kind="merged", weights={"style": -2})
    assert any("net/style@1 has -2, net/style/char@1 has 0.8" in notice for notice in answer.notices)
    receipt = read_receipt(out)
    assert [link.coefficient for link in receipt.plan.links] == [link.weight for link in receipt.lineage] == [-2, 0.8]
    assert "(this one) (with the weight 0.8)" in (out / "README.md").read_text()
    house.registry.fetch(receipt.reference, again, **receipt.options.model_dump(exclude_none=True))
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.name != RECEIPT} == {
        file.name: file.read_bytes() for file in again.iterdir() if file.name != RECEIPT
    }
    assert read_receipt(again).rendering == receipt.rendering
    assert not house.registry.fetch(f"{REF}:0.8", out, kind="merged", weights={"style": -2}).fresh
    with pytest.raises(ConflictError, match="--force"):
        house.registry.fetch(REF, out, kind="merged")
    plain = house.folder()
    house.registry.fetch(REF, plain, kind="merged")
    assert '"weight"' not in (plain / RECEIPT).read_text()
    (plain / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes())
    assert not house.registry.verify(plain).equal


@pytest.mark.parametrize("place", ["plan", "lineage"])
def test_a_receipt_with_another_weight_is_refused(house: House, place: str) -> None:
    out = house.folder()
    house.registry.fetch(f"{REF}:0.8", out, kind="lora")
    told = json.loads((out / RECEIPT).read_text())
    if place == "plan":
        told["plan"]["links"][1]["coefficient"] = 0.5
    else:
        del told["lineage"][1]["weight"]
    (out / RECEIPT).write_text(json.dumps(told))
    if place == "plan":
        with pytest.raises(IntegrityError, match="registry"):
            house.registry.verify(out)
        return
    wrong = house.registry.verify(out).mismatches
    assert [one.reason for one in wrong] == ["lineage[1].weight is absent, and the registry's is 0.8"]


def test_since_takes_the_weights_of_what_follows(house: House) -> None:
    out = house.folder()
    house.registry.fetch(REF, out, since="net/style@1", weights=0.5)
    check_composed(house.base, weighed_path(house.folder(), [house.path[1]], [0.5]), out)
    assert house.registry.verify(out).exact
    with pytest.raises(UsageError, match="leave its weight or --since out"):
        house.registry.fetch(REF, house.folder(), since="net/style@1", weights={"style": 0.5})


@pytest.mark.parametrize(
    ("ref", "options", "words"),
    [
        (REF, {"weights": {"chr": 0.5}}, "has no link chr: its links are net/style@1, net/style/char@1"),
        (REF, {"weights": {"char@2": 0.5}}, "has no link char@2"),
        (REF, {"weights": {"har": 0.5}}, "has no link har"),
        (REF, {"weights": {"": 0.5}}, "no name of a link"),
        (REF, {"weights": {"char=1,style": 0.5}}, "no name of a link"),
        (REF, {"weights": float("nan")}, "a finite number is expected, 0 or a size from 1e-09"),
        (REF, {"weights": {"char": float("inf")}}, "of char is not taken"),
        (REF, {"weights": {"char": 1e10}}, "of char is not taken"),
        (REF, {"weights": {"char": 1e-10}}, "of char is not taken"),
        (REF, {"weights": {"char": True}}, "of char is not taken"),
        (REF, {"weights": "0,8"}, "is given two weights"),
        (REF, {"weights": "char=0.5,"}, "of the last link is not taken"),
        (f"{REF}:0.5", {"weights": {"char": 0.5}}, "net/style/char@1 is given two weights"),
        (f"{REF}:nan", {}, "is not taken"),
        (f"{REF}:1e99", {}, "is not taken"),
        (f"{REF}:strong", {}, "Tag '1:strong'"),
        ("net/style/char:0.5", {}, r"write|--weight 0\.5"),
        ("net:0.5", {}, "a base model adds nothing"),
        ("net", {"weights": 0.5}, "net is a base model: it has no link"),
        (f"{REF}:0.5", {"kind": "published"}, "as they were published"),
    ],
)
def test_what_means_nothing_is_refused(house: House, ref: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        house.registry.fetch(ref, house.folder(), **options)


def test_only_what_makes_weights_takes_them(house: House) -> None:
    """All else is about revisions, which have none, and says so in a sentence."""
    registry, weighted = house.registry, f"{REF}:0.8"
    for call in (
        lambda: registry.show(weighted),
        lambda: registry.resolve(weighted),
        lambda: registry.tag(weighted, "best"),
        lambda: registry.delete(weighted),
        lambda: registry.retract(weighted, reason="wrong"),
        lambda: registry.annotate(weighted, annotations={"a": "b"}),
        lambda: registry.diff(REF, weighted),
        lambda: registry.stats(weighted),
        lambda: registry.materialise(weighted),
        lambda: registry.check(weighted, engine="peft"),
        lambda: registry.rebase("net/style/char@1", "net/style@1:0.5"),
        lambda: registry.combine({weighted: 1.0}, "net/style/no"),
        lambda: registry.export(weighted, house.folder()),
        lambda: registry.fetch(REF, house.folder(), since="net/style@1:0.5"),
        lambda: registry.publish(house.path[1], "net/style/no", parent="net/style@1:0.5", skip_parent_check=True),
    ):
        with pytest.raises(UsageError, match="a weight is of what is fetched, and no revision has one; write net/"):
            call()


def test_no_lineage_stands_on_weights(house: House) -> None:
    """What was trained on a weighted model has no revision as its parent; what is published of one says how it came."""
    model = house.folder()
    house.registry.fetch("net/style@1:0.5", model, kind="merged")
    child = write_adapter(house.folder(), house.base, ["a"], config={"base_model_name_or_path": str(model)})
    with pytest.raises(ConflictError, match=r"weights of its links \(net/style@1 has 0\.5\), so it shows no parent"):
        house.registry.publish(child, "net/style/weighted")
    adapter = house.folder()
    house.registry.fetch("net/style@1:0.5", adapter)
    published = house.registry.publish(adapter, f"net/half-{house._made}").revision
    assert published.derived_from is not None
    assert published.derived_from.weights == (0.5,)
    assert house.registry.show("net/style").revision.derived_from is None  # type: ignore[union-attr]
