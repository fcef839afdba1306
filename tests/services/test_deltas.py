"""Deltas beside each other: every figure against dense matrices of what the reference says, and what is compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.errors import InvalidAdapterError, NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.difference import DeltaFigures, Deltas
from registry.services import deltas as service
from tests.kit import Base, llama_base, plain_base, read_pairs, read_tensors, write_adapter, write_chain, write_tensors
from tests.kit.dense import changes
from tests.kit.floats import Array
from tests.kit.peers import between_themselves, load_model, peft_merge
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

ADDED = [
    (kind, name)
    for kind, recipes in VARIANTS.items()
    for name, recipe in recipes.items()
    if not recipe.dora and not recipe.replaced and not recipe.tokens and not recipe.copies and recipe.bias == "none"
]
"""Variants that only add products."""
QUICK = {("llama", "patterns"), ("tied llama", "kept"), ("gpt2", "lora bias"), ("conv", "some"), ("mixtral", "fused")}
TRIED = [pytest.param(*one, id="-".join(one), marks=[] if one in QUICK else pytest.mark.long) for one in ADDED]
EMBEDDINGS = ("embed_tokens", "wte", "wpe", "emb")


def base_of(shelf: Shelf, kind: str) -> tuple[Base, str]:
    name = kind.replace(" ", "-").replace("_", "-")
    return shelf.base(name, MAKERS[kind]), name


class Grown:
    """A tree that grows: adapters by reference, with the folders that each path is made of."""

    def __init__(self, shelf: Shelf, base: Base, name: str) -> None:
        self.shelf, self.base, self.name = shelf, base, name
        self.paths: dict[str, list[Path]] = {name: []}

    def add(self, folder: Path, parent: str | None = None, path: str | None = None) -> str:
        """Publish a folder below a revision, or below the base; its reference."""
        above = parent or self.name
        path = path or f"{above.partition('@')[0]}/n{next(self.shelf._numbers)}"
        options = {} if parent is None else {"parent": parent, "skip_parent_check": True}
        reference = self.shelf.registry.publish(folder, path, **options).revision.reference  # type: ignore[arg-type]
        self.paths[reference] = [*self.paths[above], folder]
        return reference

    def recipe(self, recipe: Recipe, parent: str | None = None) -> str:
        """The same of a recipe, with a seed of its own."""
        recipe = dataclasses.replace(recipe, seed=next(self.shelf._numbers))
        return self.add(write_recipe(self.shelf.folder(), self.base, recipe, self.paths[parent or self.name]), parent)

    def dense(self, *spans: tuple[str, str]) -> list[dict[str, list[Array]]]:
        """What lies between two references each; sides of ties count once where all of them leave them tied."""
        states = [[self.base.simulate(self.paths[one]).state for one in span] for span in spans]
        once = set.intersection(*(set(new.tied) for _, new in states))
        found = [changes(old, new, once) for old, new in states]
        return [{name: self._oriented(name, some) for name, some in side.items()} for side in found]

    def _oriented(self, parameter: str, matrices: list[Array]) -> list[Array]:
        """As (out, in), where the model keeps (in, out)."""
        layout, module = self.base.layout, parameter.removesuffix(".weight")
        leaves = {module, module.rpartition(".")[2]}
        turned = leaves & {*layout.conv1d, *EMBEDDINGS} or (layout.experts_transposed and len(matrices) > 1)
        return [matrix.T for matrix in matrices] if turned else matrices


def expected(a: Sequence[Array], b: Sequence[Array], *, undone_of: str = "a") -> dict[str, float]:
    """The figures of docs/statistics.md, from dense matrices."""
    energy_a, energy_b = (sum(float(np.sum(one**2)) for one in side) for side in (a, b))
    inner = sum(float(np.sum(one * other)) for one, other in zip(a, b, strict=True))
    both = sum(float(np.sum((one + other) ** 2)) for one, other in zip(a, b, strict=True))
    found = {"frobenius_a": math.sqrt(energy_a), "frobenius_b": math.sqrt(energy_b)}
    if energy_a and energy_b:
        found |= {
            "cosine": inner / math.sqrt(energy_a) / math.sqrt(energy_b),
            "energy_ratio": both / (energy_a + energy_b),
            "undone": -inner / (energy_a if undone_of == "a" else energy_b),
        }
    for name, side in (("row_overlap", 1), ("column_overlap", 0)):
        shared = [_cosines(one, other, side) for one, other in zip(a, b, strict=True)]
        if any(len(one) for one in shared):
            found[name] = float(np.mean(np.concatenate(shared) ** 2))
    return found


def _cosines(a: Array, b: Array, side: int) -> Array:
    spaces = []
    for matrix in (a, b):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        rank = int(np.sum(values > 1e-9 * values[0]))
        spaces.append((left[:, :rank], right[:rank].T)[side])
    return np.asarray(np.linalg.svd(spaces[0].T @ spaces[1], compute_uv=False))


def check(figures: DeltaFigures, a: Sequence[Array], b: Sequence[Array], scale: float, **options: str) -> None:
    wanted = expected(a, b, **options)
    for name in DeltaFigures.model_fields:
        value = getattr(figures, name)
        if name.startswith("frobenius"):
            assert value == pytest.approx(wanted[name], abs=1e-10 * scale), name
        elif name in wanted:
            assert value == pytest.approx(wanted[name], rel=1e-8, abs=1e-9), name


def check_all(found: Deltas, a: Mapping[str, list[Array]], b: Mapping[str, list[Array]]) -> None:
    modules = {module.module: module for module in found.modules}
    every_a: list[Array] = []
    every_b: list[Array] = []
    scale = max(float(np.linalg.norm(one)) for side in (a, b) for some in side.values() for one in some)
    for parameter in a.keys() | b.keys():
        some = a.get(parameter) or [np.zeros_like(one) for one in b[parameter]]
        others = b.get(parameter) or [np.zeros_like(one) for one in a[parameter]]
        module = modules.pop(parameter, None) or modules.pop(parameter.rpartition(".")[0])
        check(module, some, others, scale, undone_of=found.undone_of)
        if len(some) > 1:
            assert module.row_angles == ()
            for expert in module.experts:
                check(expert, [some[expert.expert]], [others[expert.expert]], scale, undone_of=found.undone_of)
        else:
            squares = [math.cos(angle) ** 2 for angle in module.row_angles]
            assert module.row_overlap == (pytest.approx(np.mean(squares)) if squares else None)
        every_a += some
        every_b += others
    assert {name for name, module in modules.items() if module.frobenius_a or module.frobenius_b} == set()
    check(found, every_a, every_b, scale, undone_of=found.undone_of)
    for groups in (found.kinds, found.depths):
        assert sum(group.modules for group in groups) == len(found.modules)
        assert math.hypot(*(group.frobenius_a for group in groups)) == pytest.approx(found.frobenius_a)
        shares = (group.cosine * group.frobenius_a * group.frobenius_b for group in groups if group.cosine is not None)
        inner = (found.cosine or 0) * found.frobenius_a * found.frobenius_b
        assert math.fsum(shares) == pytest.approx(inner, abs=1e-9 * scale**2)


@pytest.mark.slow_on("patterns")
@pytest.mark.parametrize(("kind", "name"), TRIED)
def test_siblings_parent_and_child_and_depths_are_what_dense_matrices_say(shelf: Shelf, kind: str, name: str) -> None:
    """Below one parent a plain link, the variant beside it, and another one below the first."""
    base, under = base_of(shelf, kind)
    tree = Grown(shelf, base, under)
    plain = next(iter(VARIANTS[kind].values()))
    parent = tree.recipe(plain)
    a = tree.recipe(plain, parent)
    b = tree.recipe(VARIANTS[kind][name], parent)
    below = tree.recipe(VARIANTS[kind][name], a)
    registry = shelf.registry
    for (one, other), spans, undone_of in (
        ((a, b), ((parent, a), (parent, b)), "a"),  # siblings
        ((parent, b), ((under, parent), (parent, b)), "a"),  # parent and child
        ((a, below), ((under, a), (a, below)), "a"),  # the parent is a path of two
        ((b, below), ((parent, b), (parent, below)), "a"),  # paths of different depth
        ((below, parent), ((parent, below), (under, parent)), "b"),  # an ancestor on the other side
    ):
        found = registry.diff(one, other, deltas=True).deltas
        assert found is not None
        assert [(side.since, side.reference) for side in (found.a, found.b)] == list(spans)
        assert (found.undone_of, found.others) == (undone_of, ())
        check_all(found, *tree.dense(*spans))


def test_revisions_of_one_adapter_and_parents_pinned_elsewhere(shelf: Shelf) -> None:
    base, name = base_of(shelf, "llama")
    tree = Grown(shelf, base, name)
    folders = [write_adapter(shelf.folder(), base, ["q_proj", "down_proj"], r=3, seed=n) for n in range(4)]
    first = tree.add(folders[0], path="llama/adapter")
    second = tree.add(folders[1], path="llama/adapter")
    one, other = tree.add(folders[2], first, "llama/adapter/x"), tree.add(folders[3], second, "llama/adapter/x")
    found = shelf.registry.diff(first, second, deltas=True).deltas
    assert found is not None
    assert (first, second) == ("llama/adapter@1", "llama/adapter@2")
    check_all(found, *tree.dense((name, first), (name, second)))
    found = shelf.registry.diff(one, other, deltas=True).deltas
    assert found is not None
    assert (found.a.since, found.b.since) == (name, name)
    check_all(found, *tree.dense((name, one), (name, other)))


def test_a_link_and_itself_and_its_negation(shelf: Shelf) -> None:
    base, name = base_of(shelf, "llama")
    tree = Grown(shelf, base, name)
    above = tree.add(write_adapter(shelf.folder(), base, ["q_proj"], seed=1))
    link = {"targets": ["q_proj", "v_proj"], "r": 4, "seed": 7}
    one = tree.add(write_adapter(shelf.folder(), base, alpha=8, **link), above)  # type: ignore[arg-type]
    negated = tree.add(write_adapter(shelf.folder(), base, alpha=-8, **link), above)  # type: ignore[arg-type]
    nothing = tree.add(write_adapter(shelf.folder(), base, ["q_proj", "v_proj"], r=4, fill="zero"), above)
    diff = shelf.registry.diff
    same, opposite, zero = (diff(one, ref, deltas=True).deltas for ref in (one, negated, nothing))
    assert same is not None
    assert opposite is not None
    assert zero is not None
    assert (same.a, same.a.since) == (same.b, above)
    for found, cosine in ((same, 1), (opposite, -1)):
        for figures in (found, *found.modules, *found.kinds):
            assert figures.cosine == pytest.approx(cosine, abs=1e-14)
            assert figures.energy_ratio == pytest.approx(1 + cosine, abs=1e-14)
            assert figures.undone == pytest.approx(-cosine, abs=1e-14)
            assert figures.row_overlap == pytest.approx(1, abs=1e-14)
    assert (zero.cosine, zero.energy_ratio, zero.undone, zero.row_overlap) == (None, 1, 0, None)
    back = diff(above, tree.add(tree.paths[above][0], negated), deltas=True).deltas
    assert back is not None  # two links below it, the second of which repeats it
    assert back.undone == pytest.approx(-1, abs=0.2)
    nowhere = diff(nothing, nothing, deltas=True).deltas
    assert nowhere is not None
    assert (nowhere.cosine, nowhere.energy_ratio, nowhere.undone) == (None, None, None)


def test_modules_that_only_one_path_parts_count_on_both_sides(shelf: Shelf) -> None:
    """One sibling trains the embedding alone, so that it and the head part; the other both, which stay one weight."""
    base, name = base_of(shelf, "tied llama")
    tree = Grown(shelf, base, name)
    recipes = VARIANTS["tied llama"]
    refs = {one: tree.recipe(recipes[one]) for one in ("embedding", "head", "kept", "both", "plain")}
    for one, other in (("embedding", "kept"), ("kept", "head"), ("kept", "both"), ("kept", "plain"), ("both", "head")):
        found = shelf.registry.diff(refs[one], refs[other], deltas=True).deltas
        assert found is not None
        check_all(found, *tree.dense((name, refs[one]), (name, refs[other])))


def test_what_is_no_product_is_named(shelf: Shelf) -> None:
    base, name = base_of(shelf, "llama")
    tree = Grown(shelf, base, name)
    recipes = VARIANTS["llama"]
    plain, dora, head, norm = (tree.recipe(recipes[one]) for one in ("plain", "dora", "new head", "new norm"))
    after = tree.recipe(recipes["plain"], dora)
    tokens, linear = (tree.recipe(recipes[one]) for one in ("tokens", "new linear"))

    def compared(a: str, b: str) -> Deltas:
        found = shelf.registry.diff(a, b, deltas=True).deltas
        assert found is not None
        return found

    found = compared(plain, dora)
    assert found.others == ()
    assert {module.module for module in found.modules if module.scaled} == set(read_pairs(tree.paths[dora][0]))
    pairs = [read_pairs(tree.paths[one][0]) for one in (plain, dora)]
    both = sorted(pairs[0].keys() & pairs[1].keys())
    by_name = {module.module: module for module in found.modules}
    for module in both:
        check(by_name[module], [pairs[0][module].delta], [pairs[1][module].delta], 1.0)

    found = compared(plain, after)
    assert {(one.name, one.a, one.b) for one in found.others} == {
        (module, "added to", "rescaled and added to") for module in both
    }
    assert not {module.module for module in found.modules} & set(both)
    assert compared(dora, after).others == ()  # what followed only adds

    others = {one.name: (one.a, one.b) for one in compared(head, norm).others}
    assert others["lm_head"] == ("replaced", None)
    assert others["model.norm.weight"] == (None, "replaced")
    assert [(one.name, one.a, one.b) for one in compared(tokens, head).others] == [
        ("lm_head", None, "replaced"),
        ("model.embed_tokens", "rows replaced", None),
    ]
    found = compared(plain, linear)
    marked = {module.module for module in found.modules if module.replaced}
    assert marked == {one.name for one in found.others} & {module.module for module in found.modules} != set()


def test_what_cannot_be_compared(shelf: Shelf) -> None:
    base, name = base_of(shelf, "llama")
    ref = Grown(shelf, base, name).add(write_adapter(shelf.folder(), base, ["q_proj"], seed=1))
    other = shelf.base("other", llama_base, seed=9)
    there = Grown(shelf, other, "other").add(write_adapter(shelf.folder(), other, ["q_proj"], seed=1))
    with pytest.raises(UsageError, match=f"{ref} and {there} are on different base models, llama and other"):
        shelf.registry.diff(ref, there, deltas=True)
    assert shelf.registry.diff(ref, there).deltas is None
    for nothing in ("llama/nothing", "nothing/at-all"):
        with pytest.raises(NotFoundError):
            shelf.registry.diff(ref, nothing, deltas=True)
    with pytest.raises(UsageError, match="is a base model"):
        shelf.registry.diff(ref, "llama", deltas=True)


def test_no_byte_of_the_base_is_read(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    base = shelf.base("llama", llama_base)
    a, b = shelf.publish("llama", write_chain(shelf.folder(), base, 2, ["q_proj"]))
    for file in shelf.registry.show("llama").files:
        if file.path.endswith(".safetensors"):
            (stored,) = (tmp_path / "registry" / "blobs").rglob(f"{file.digest.removeprefix('sha256:')}*")
            stored.unlink()
    assert shelf.registry.diff(a, b, deltas=True).deltas is not None
    assert len(shelf.registry.diff_children("llama").children) == 1
    shelf.close()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shelf, Grown]]:
    """Four children of an adapter, one with two revisions, one of DoRA with a new head, and one that does nothing."""
    shelf = Shelf(tmp_path_factory.mktemp("family"))
    base = shelf.base("llama", llama_base)
    tree = Grown(shelf, base, "llama")
    parent = tree.add(write_adapter(shelf.folder(), base, ["q_proj"], seed=1), path="llama/up")
    for seed, leaf in ((2, "b"), (3, "b"), (4, "a")):
        tree.add(write_adapter(shelf.folder(), base, ["q_proj", "v_proj"], r=3, seed=seed), parent, f"llama/up/{leaf}")
    recipe = Recipe(("q_proj", "down_proj"), dora=True, replaced=("lm_head",))
    tree.add(write_recipe(shelf.folder(), base, recipe), parent, "llama/up/c")
    tree.add(write_adapter(shelf.folder(), base, ["q_proj"], fill="zero"), parent, "llama/up/d")
    tree.add(write_adapter(shelf.folder(), base, ["q_proj"], seed=5), "llama/up/a@1", "llama/up/a/below")
    yield shelf, tree
    shelf.close()


def test_all_pairs_of_children(family: tuple[Shelf, Grown]) -> None:
    shelf, _ = family
    found = shelf.registry.diff_children("llama/up")
    names = ["llama/up/a@1", "llama/up/b@2", "llama/up/c@1", "llama/up/d@1"]
    assert [(child.reference, child.parent) for child in found.children] == [(name, "llama/up@1") for name in names]
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            pair = shelf.registry.diff(one, other, deltas=True).deltas
            assert pair is not None
            assert found.children[i].frobenius == pytest.approx(pair.frobenius_a, rel=1e-12)
            assert found.cosine[i][j] == (None if pair.cosine is None else pytest.approx(pair.cosine, abs=1e-12))
            wanted = None if pair.energy_ratio is None else pytest.approx(pair.energy_ratio, abs=1e-12)
            assert found.energy_ratio[i][j] == wanted
            assert found.cosine[i][j] == found.cosine[j][i]
    assert [child.scaled for child in found.children] == [False, False, True, False]
    assert [[(one.name, one.how) for one in child.others] for child in found.children] == [
        [], [], [("lm_head", "replaced")], []
    ]  # fmt: skip
    rows = list(found.rows())
    assert [(row["a"], row["b"]) for row in rows[:3]] == [(names[0], other) for other in names[1:]]
    assert len(rows) == 6
    for path in ("llama/nothing", "nothing"):
        with pytest.raises(NotFoundError):
            shelf.registry.diff_children(path)
    assert shelf.registry.diff_children("llama/up/b").children == ()


def test_only_children_that_are_seen_are_compared(family: tuple[Shelf, Grown]) -> None:
    shelf, _ = family
    scopes = tuple(TreePath.parse(path) for path in ("llama/up/a", "llama/up/c"))
    seen = shelf.registry.with_principal(Principal("ann", Rights("reader", scopes)))
    with pytest.raises(NotFoundError):
        seen.diff_children("llama/up")
    with pytest.raises(NotFoundError):
        seen.diff("llama/up/a", "llama/up/b", deltas=True)
    whole = shelf.registry.diff("llama/up/a", "llama/up/c", deltas=True).deltas
    assert seen.diff("llama/up/a", "llama/up/c", deltas=True).deltas == whole
    scopes = (TreePath.parse("llama/up"),)
    all_of_it = shelf.registry.with_principal(Principal("ann", Rights("reader", scopes)))
    assert all_of_it.diff_children("llama/up") == shelf.registry.diff_children("llama/up")
    assert [child.reference for child in all_of_it.diff_children("llama").children] == ["llama/up@1"]


def test_more_children_than_are_compared_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    base = shelf.base("net", lambda folder: plain_base(folder, {"a.weight": (6, 4)}))
    for seed in range(4):
        shelf.publish("net", [write_adapter(shelf.folder(), base, ["a"], r=2, seed=seed)])
    monkeypatch.setattr(service, "MOST_CHILDREN", 3)
    with pytest.raises(UsageError, match=r"net has more than 3 children, .* two at a time: registry diff A B --deltas"):
        shelf.registry.diff_children("net")
    monkeypatch.setattr(service, "MOST_CHILDREN", 4)
    assert len(shelf.registry.diff_children("net").children) == 4
    shelf.close()


@pytest.mark.slow
def test_adapters_that_peft_trained_are_what_peft_says(tmp_path: Path) -> None:
    """Two adapters trained on one model, and one trained on the first; the deltas are PEFT's own."""
    import peft

    shelf = Shelf(tmp_path)
    base = shelf.base("llama", llama_base)
    tree = Grown(shelf, base, "llama")
    known: dict[str, dict[str, Array]] = {}

    def trained(parent: str | None, seed: int, **config: object) -> str:
        folder = shelf.folder()
        model = peft_merge(base.folder, tree.paths[parent]) if parent else load_model(base.folder)
        config = {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 16, **config}
        with between_themselves():
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
            optimizer = torch.optim.AdamW((one for one in wrapped.parameters() if one.requires_grad), lr=0.02)
            for step in range(5):
                tokens = torch.randint(0, 30, (4, 12), generator=torch.Generator().manual_seed(100 * seed + step))
                wrapped(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            wrapped.save_pretrained(folder)
        reference = tree.add(folder, parent)
        known[reference] = {
            name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().double().numpy()
            for name, module in wrapped.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        return reference

    one, other = trained(None, 1), trained(None, 2, use_rslora=True, rank_pattern={"down_proj": 6})
    below = trained(one, 3)
    for a, b in ((one, other), (one, below)):
        found = shelf.registry.diff(a, b, deltas=True).deltas
        assert found is not None
        assert {module.module for module in found.modules} == known[a].keys() == known[b].keys()
        for module in found.modules:
            mine, its = known[a][module.module], known[b][module.module]
            norms = (np.linalg.norm(mine), np.linalg.norm(its))
            assert (module.frobenius_a, module.frobenius_b) == pytest.approx(norms, rel=1e-5)  # PEFT's are float32
            assert module.cosine == pytest.approx(float(np.sum(mine * its) / norms[0] / norms[1]), abs=1e-5)
            assert module.undone == pytest.approx(-float(np.sum(mine * its) / norms[0] ** 2), abs=1e-5)
    matrix = shelf.registry.diff_children("llama")
    pair = shelf.registry.diff(one, other, deltas=True).deltas
    assert pair is not None
    assert matrix.cosine[0][1] == pytest.approx(pair.cosine, abs=1e-12)
    shelf.close()


def test_a_weight_that_two_adapters_read_in_two_ways(tmp_path: Path) -> None:
    """A square tensor of a model that nothing is known of: one trains it as a linear module, one as an embedding."""
    shelf = Shelf(tmp_path)
    base = shelf.base("net", lambda folder: plain_base(folder, {"a.weight": (6, 6)}))
    linear = write_adapter(shelf.folder(), base, ["a"], r=2)
    embedding = write_adapter(shelf.folder(), base, ["a"], r=2, seed=1)
    tensors = read_tensors(embedding / "adapter_model.safetensors")
    renamed = {
        name.replace("lora_A.weight", "lora_embedding_A").replace("lora_B.weight", "lora_embedding_B"): one
        for name, one in tensors.items()
    }
    write_tensors(embedding / "adapter_model.safetensors", renamed)
    a, b = (shelf.publish("net", [folder])[0] for folder in (linear, embedding))
    for compare in (lambda: shelf.registry.diff(a, b, deltas=True), lambda: shelf.registry.diff_children("net")):
        with pytest.raises(InvalidAdapterError, match="read the weight of 'a' in two ways") as refused:
            compare()
        assert refused.value.code == "lineage_mismatch"
    shelf.close()
