"""A path beside the base gives what it gives merged; in 16 bits a row of a list is no worse than its path alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from registry.errors import InvalidAdapterError, UsageError
from registry.pool import AdapterPool
from tests.kit.laid_models import LAID_MODELS, laid_base, load_laid
from tests.kit.peers import load_model, wrap
from tests.kit.shelf import Shelf
from tests.kit.variants import VARIANTS
from tests.pool.per_call.kinds import Standing, away
from tests.pool.trees import Tree

CLOSE = 1e-5
QUICK = {
    "llama": ["dora of others", "new linear"],
    "tied llama": ["dora head", "kept", "tokens of each", "new head"],
    "gpt2": ["dora positions", "lora bias", "biases"],
    "conv": ["dora", "new conv"],
    "attention": ["ranks", "beside"],
    "mixtral": ["fused", "attention"],
}


def ids_of(kind: str, rows: int = 4) -> torch.Tensor:
    """Tokens that a model of a kind takes: the length is not the number of rows."""
    return torch.randint(0, 12, (rows, 8 if kind == "conv" else 7), generator=torch.Generator().manual_seed(rows))


def outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """What a model answers."""
    found = model(input_ids=ids)
    result: torch.Tensor = found.logits if hasattr(found, "logits") else found
    return result.detach()


def check_alone(tree: Tree, kind: str, references: list[str]) -> None:
    """Each path beside the base against the same path merged; the base is as before after each."""
    model, ids = tree.load(), ids_of(kind)
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        base = outputs(model, ids)
        for reference in references:
            with pool.merged(reference):
                right = outputs(model, ids)
            assert away(base, right) > 1e-4, reference
            with pool.use(reference) as used:
                assert used == reference
                assert away(outputs(model, ids), right) < CLOSE, reference
            assert torch.equal(outputs(model, ids), base)


@pytest.mark.parametrize("kind", QUICK)
def test_some_variants(shelf: Shelf, kind: str) -> None:
    tree = Tree(shelf, kind)
    check_alone(tree, kind, [tree.publish(variant) for variant in QUICK[kind]])


@pytest.mark.long_but("tied llama", "gpt2", "attention", "gpt_oss")
@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIANTS)
def test_every_variant(shelf: Shelf, kind: str) -> None:
    tree = Tree(shelf, kind)
    alone = [tree.publish(variant) for variant in VARIANTS[kind]]
    check_alone(tree, kind, alone)


FIVE = {
    "tied llama": ["plain", "dora head", "tokens", "new embedding", "both"],
    "gpt2": ["plain", "dora", "lora bias", "new norm", "biases"],
}


@pytest.mark.parametrize("kind", ["tied llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_paths_of_five_links(shelf: Shelf, kind: str) -> None:
    tree, above = Tree(shelf, kind), None
    for variant in FIVE[kind]:
        above = tree.publish(variant, above)
    check_alone(tree, kind, tree.references)


@pytest.mark.long_but("llama", "conv", "mixtral", "opt")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "tied llama", "gpt2", "opt", "conv", "attention", "declared", "mixtral"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
def test_random_trees(shelf: Shelf, kind: str, seed: int) -> None:
    chance, tree = random.Random(seed), Tree(shelf, kind)
    for variant in chance.choices(list(VARIANTS[kind]), k=6):
        try:
            tree.publish(variant, chance.choice([None, *tree.references, *tree.references[-1:] * 3]))
        except InvalidAdapterError:  # two variants that no path holds together
            continue
    check_alone(tree, kind, tree.references)


@pytest.mark.parametrize("model_type", ["nomic_bert", pytest.param("sarvam_moe", marks=pytest.mark.slow)])
def test_rows_that_a_loader_cuts(shelf: Shelf, model_type: str) -> None:
    folder, adapter, name = shelf.folder(), shelf.folder(), model_type.replace("_", "-")
    laid_base(folder, model_type)
    shelf.registry.add_base(name, folder)
    targets = [one.rpartition(".")[2] for one in LAID_MODELS[model_type].modules]
    wrap(adapter, load_laid(folder, model_type), target_modules=targets, use_dora=True)
    reference = shelf.path(name, [adapter])
    model = load_laid(folder, model_type)
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    with AdapterPool(model, shelf.registry) as pool, torch.no_grad():
        with pool.merged(reference):
            right = model(input_ids=ids)[0]
        with pool.use([reference, None]):
            found = model(input_ids=ids)[0]
        base = model(input_ids=ids)[0]
        assert away(found[0], right[0]) < CLOSE
        assert away(found[1], base[1]) < CLOSE < away(base[0], right[0])


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("vit", "t5", "qwen2_moe"))]
)
def test_kinds_of_transformers(shelf: Shelf, name: str) -> None:
    standing = Standing(shelf, name)
    model, pool, inputs = standing.model, standing.pool, standing.inputs(4)
    with torch.no_grad():
        rows = []
        for reference in standing.references:
            with pool.merged(reference):
                right = model(**inputs).logits
            with pool.use(reference):
                rows.append(model(**inputs).logits)
            assert away(rows[-1], right) < CLOSE, reference
        rows.append(model(**inputs).logits)
        assert min(away(rows[-1], one) for one in rows[:-1]) > 1e-3
        with pool.use([*standing.references, None]):
            mixed = model(**inputs).logits
    for row, right in enumerate(rows):
        assert away(mixed[row], right[row]) < CLOSE, row
    pool.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("kind", ["tied llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_16_bits(shelf: Shelf, kind: str, dtype: torch.dtype) -> None:
    """Mixed no farther from float64 than twice the path alone, and alone no farther than twice the merged model."""
    variants = {"tied llama": ["dora head", "plain", "tokens"], "gpt2": ["dora positions", "lora bias", "plain"]}[kind]
    tree = Tree(shelf, kind, dtype)
    references, ids = [tree.publish(variant) for variant in variants], ids_of(kind, 24)
    model = tree.load()
    with torch.no_grad(), AdapterPool(model, tree.registry) as pool:
        alone, merged, right = [], [], []
        for reference in references:
            with pool.use(reference):
                alone.append(outputs(model, ids))
            with pool.merged(reference):
                merged.append(outputs(model, ids))
            right.append(_in_float64(tree, reference, ids))
        with pool.use([references[row % 3] for row in range(24)]):
            mixed = outputs(model, ids)
    for number in range(3):
        mine = slice(number, None, 3)
        solo = away(alone[number][mine], right[number][mine])
        assert away(mixed[mine], right[number][mine]) <= 2 * solo
        assert solo <= 2 * away(merged[number][mine], right[number][mine])


def _in_float64(tree: Tree, reference: str, ids: torch.Tensor) -> torch.Tensor:
    out = tree.shelf.folder()
    tree.registry.fetch(reference, out, kind="merged", dtype="fp32")
    return outputs(load_model(out, torch.float32).double(), ids)


def test_what_can_not_be_done_is_refused_by_name(shelf: Shelf) -> None:
    """Heads of another shape, and modules with a forward that something else has put there."""
    tree = Tree(shelf, "llama")
    reference, model = tree.publish("plain"), tree.load()
    module = model.model.layers[1].self_attn.v_proj
    module.forward = lambda x: x
    with AdapterPool(model, tree.registry) as pool:
        with pytest.raises(UsageError, match=r"layers\.1\.self_attn\.v_proj' has a forward of its own") as error:
            pool.set(reference)
        assert error.value.code == "unsupported_model"
        del module.forward
        assert pool.set(reference) == reference
        pool.set(None)


@pytest.fixture(params=["cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def test_on_another_device(shelf: Shelf, device: str) -> None:
    tree = Tree(shelf, "tied llama")
    references = [tree.publish(variant) for variant in ("dora head", "tokens", "new embedding")]
    model, ids = tree.load().to(device), ids_of("tied llama").to(device)
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        rows = []
        for reference in references:
            with pool.merged(reference):
                rows.append(outputs(model, ids))
            with pool.use(reference):
                assert away(outputs(model, ids), rows[-1]) < CLOSE
        rows.append(outputs(model, ids))
        with pool.use([*references, None]):
            mixed = outputs(model, ids)
        assert all(away(mixed[row], rows[row][row]) < CLOSE for row in range(4))
