"""One path a row: each row is as its path alone, and a list that does not fit the batch is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from tests.kit.shelf import Shelf
from tests.kit.variants import VARIANTS
from tests.pool.per_call import nets
from tests.pool.per_call.kinds import Standing, away
from tests.pool.per_call.net_pools import NetPool
from tests.pool.per_call.test_values import ids_of, outputs
from tests.pool.trees import Tree

CLOSE = 1e-5
MIXED = {
    "tied llama": ["dora head", "tokens", "new head", "embedding", "kept"],
    "gpt2": ["dora positions", "lora bias", "new norm", "biases"],
    "opt": ["dora bias", "bias", "new linear"],
    "conv": ["dora", "new conv", "lora bias"],
    "mixtral": ["fused", "attention", "new experts"],
    "gpt_oss": ["fused", "attention"],
}


def check_mixed(tree: Tree, kind: str, references: list[str]) -> None:
    """Rows in several orders, the base between them, against each path alone."""
    model = tree.load()
    wanted: list[str | None] = [*references, None]
    rows = 2 * len(wanted)
    ids = ids_of(kind, rows)
    orders = [[wanted[row % len(wanted)] for row in range(rows)], [wanted[row // 2] for row in range(rows)]]
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        alone = {}
        for reference in wanted:
            with pool.use(reference):
                alone[reference] = outputs(model, ids)
        for order in (*orders, orders[0][::-1]):
            with pool.use(order) as used:
                assert list(used or ()) == order
                mixed = outputs(model, ids)
            for row, reference in enumerate(order):
                assert away(mixed[row], alone[reference][row]) < CLOSE, (row, reference)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("tied llama", "mixtral") else pytest.mark.slow) for kind in MIXED]
)
def test_each_row_is_its_path_alone(shelf: Shelf, kind: str) -> None:
    tree = Tree(shelf, kind)
    check_mixed(tree, kind, [tree.publish(variant) for variant in MIXED[kind]])


@pytest.mark.long_but("tied llama", "gpt2", "mixtral")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "tied llama", "gpt2", "opt", "conv", "mixtral", "gpt_oss"])
def test_all_variants_in_one_batch(shelf: Shelf, kind: str) -> None:
    tree = Tree(shelf, kind)
    check_mixed(tree, kind, [tree.publish(variant) for variant in VARIANTS[kind]])


def test_padding_at_the_left(shelf: Shelf) -> None:
    tree = Tree(shelf, "gpt2")
    references = [tree.publish(variant) for variant in ("dora positions", "lora bias")]
    model, ids = tree.load(), ids_of("gpt2", 3)
    mask = torch.ones_like(ids)
    mask[0, :3] = mask[2, :1] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        for given in (inputs, {"input_ids": ids, "attention_mask": mask}):
            order = [references[0], None, references[1]]
            alone = []
            for reference in order:
                with pool.use(reference):
                    alone.append(model(**given).logits)
            with pool.use(order):
                mixed = model(**given).logits
            assert all(away(mixed[row], alone[row][row]) < CLOSE for row in range(3))


def _call(model: Any, rows: int) -> Any:
    return model(input_ids=torch.ones(rows, 6, dtype=torch.long))


UNFIT: dict[str, Callable[[Any], Any]] = {
    "short": lambda model: _call(model, 2),
    "long": lambda model: _call(model, 4),
    "a multiple": lambda model: _call(model, 6),
    "one row": lambda model: _call(model, 1),
    "none": lambda model: _call(model, 0),
    "below the model": lambda model: model.model(torch.ones(4, 6, dtype=torch.long)),
    "a multiple below": lambda model: model.model(torch.ones(6, 6, dtype=torch.long)),
    "generated": lambda model: model.generate(torch.ones(2, 3, dtype=torch.long), max_new_tokens=2, pad_token_id=0),
    "other beams": lambda model: model.generate(
        torch.ones(6, 3, dtype=torch.long), max_new_tokens=2, num_beams=3, pad_token_id=0
    ),
}


@pytest.fixture(scope="module")
def llama(shelf: Shelf) -> tuple[Tree, list[str]]:
    tree = Tree(shelf, "llama")
    return tree, [tree.publish(variant) for variant in ("plain", "dora")]


@pytest.mark.parametrize("how", UNFIT)
def test_a_list_that_does_not_fit_is_an_error(llama: tuple[Tree, list[str]], how: str) -> None:
    tree, references = llama
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        with pytest.raises(UsageError, match="list of paths has 3 rows"), pool.use([*references, None]):
            UNFIT[how](model)
        assert _call(model, 2).logits.shape[0] == 2


def test_a_list_of_one_path_has_to_fit_too(llama: tuple[Tree, list[str]]) -> None:
    tree, references = llama
    model = tree.load()
    with AdapterPool(model, tree.registry) as pool, torch.no_grad():
        for order in (references[:1] * 3, [None] * 3):
            with pool.use(order):
                assert _call(model, 3).logits.shape[0] == 3
                for rows in (2, 6):
                    with pytest.raises(UsageError, match=f"has 3 rows, and the batch has {rows}"):
                        _call(model, rows)


def test_lists_that_say_nothing(llama: tuple[Tree, list[str]]) -> None:
    tree, _ = llama
    with AdapterPool(tree.load(), tree.registry) as pool:
        with pytest.raises(UsageError, match="empty"), pool.use([]):
            pass
        with pytest.raises(UsageError, match="2 texts and 1 references"):
            pool._beside.encode(["one", "two"], [None], {})


def test_rows_that_can_not_be_told(shelf: Shelf) -> None:
    """Positions first, experts that get some tokens, positions without a batch: refused, also where sizes agree."""
    square = torch.tensor([[3, 1, 4], [1, 5, 9], [2, 6, 5]])
    turned = NetPool(shelf, nets.Turned, ["lin"])
    with (
        pytest.raises(UsageError, match="rows of the batch can't be told"),
        turned.pool.use([turned.reference, None, None]),
    ):
        turned.model(square)
    with pytest.raises(UsageError, match="has 2 rows"), turned.pool.use([turned.reference, None]):
        turned.model(torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]]))  # positions are a multiple of the rows
    routed = NetPool(shelf, nets.Routed, ["experts.0", "experts.1"])
    for ids in (square, square[:2]):
        order = [routed.reference, *[None] * (len(ids) - 1)]
        with pytest.raises(UsageError, match=r"experts\.\d.*not known to treat rows apart"), routed.pool.use(order):
            routed.model(ids)
    positions = NetPool(shelf, nets.Positions, ["wpe"])
    order = [positions.reference, None, None]
    with pytest.raises(UsageError, match="rows of the batch can't be told"), positions.pool.use(order):
        positions.model(square)
    with pytest.raises(UsageError, match="has 2 rows"), positions.pool.use([positions.reference, None]):
        positions.model(square[:2])


def test_a_net_whose_batch_is_not_first_takes_no_list(shelf: Shelf) -> None:
    class Recurrent(nets.Net):
        def __init__(self) -> None:
            super().__init__()
            self.memory = torch.nn.LSTM(8, 8)

        def body(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.lin(self.memory(x.transpose(0, 1))[0].transpose(0, 1))
            return found

    net = NetPool(shelf, Recurrent, ["lin", "emb"])
    with pytest.raises(UsageError, match=r"memory.*another dimension than the first"):
        net.pool.use([net.reference, None]).__enter__()
    right = net.merged()
    with net.pool.use(net.reference):
        assert away(net.model(torch.tensor([[3, 1, 4, 1, 5, 0]])), right[:1]) < 1e-4


def test_gradients_of_mixed_rows(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.Net, ["lin", "emb"], use_dora=True)
    x = torch.randn(3, 6, 8)
    found = []
    for order in ([net.reference, None, net.reference], net.reference, None):
        given = x.clone().requires_grad_()
        with net.pool.use(order):
            net.model.head(net.model.body(given)).square().sum().backward()
        assert given.grad is not None
        found.append(given.grad)
    assert away(found[0], torch.stack([found[1][0], found[2][1], found[1][2]])) < CLOSE


GENERATED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams returned": {"num_beams": 4, "num_return_sequences": 2},
    "no cache": {"use_cache": False, "num_beams": 2},
}


_QUICK = {("gpt2", "beams returned"), ("tied llama", "no cache")}


@pytest.mark.long_but(
    "gpt2-greedy", "gpt2-beams returned", "tied llama-no cache", "tied llama-beams", "opt-beams returned"
)
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param(kind, how, marks=() if (kind, how) in _QUICK else pytest.mark.slow)
        for kind in ("gpt2", "tied llama", "opt")
        for how in GENERATED
    ],
)
def test_generation(shelf: Shelf, kind: str, how: str) -> None:
    name = f"{kind}-generated"
    tree = shelf.__dict__.setdefault(name, None) or Tree(shelf, kind)
    if not tree.references:
        shelf.__dict__[name] = tree
        for variant in {
            "gpt2": ("dora", "positions"),
            "tied llama": ("head", "tokens"),
            "opt": ("new linear", "plain"),
        }[kind]:
            tree.publish(variant)
    check_generation(tree.load(), tree, how)


def check_generation(model: Any, tree: Tree, how: str) -> None:
    ids = torch.randint(2, 12, (4, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **GENERATED[how]}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    with AdapterPool(model, tree.registry) as pool:
        order = [tree.references[0], None, tree.references[1], tree.references[0]]
        each = options.get("num_return_sequences", 1)
        alone = {}
        for reference in order:
            with pool.use(reference):
                alone[reference] = model.generate(ids, attention_mask=mask, **options).sequences
        with pool.use(order):
            mixed = model.generate(ids, attention_mask=mask, **options).sequences
        for row, reference in enumerate(order):
            mine = slice(row * each, (row + 1) * each)
            assert torch.equal(mixed[mine], alone[reference][mine]), (row, reference)
        assert len({tuple(one.flatten().tolist()) for one in alone.values()}) > 1


@pytest.mark.parametrize(
    "given",
    [
        {"num_beams": 2, "num_return_sequences": 2},
        {},
        pytest.param({"num_beams": 3}, marks=pytest.mark.long),
    ],
    ids=str,
)
@pytest.mark.slow
def test_generation_of_an_encoder_and_a_decoder(shelf: Shelf, given: dict[str, Any]) -> None:
    from transformers import GenerationConfig

    standing = Standing(shelf, "t5", f"t5-{len(given)}-{given.get('num_beams', 1)}")
    model, pool, inputs = standing.model, standing.pool, standing.inputs(4)
    del inputs["decoder_input_ids"]
    first, second, third = standing.references
    order = [first, None, second, third]
    each = given.get("num_return_sequences", 1)
    config = GenerationConfig(
        max_new_tokens=4, do_sample=False, pad_token_id=0, decoder_start_token_id=0, eos_token_id=None, **given
    )
    alone = []
    for reference in order:
        with pool.use(reference):
            alone.append(model.generate(**inputs, generation_config=config))
    with pool.use(order):
        mixed = model.generate(inputs["input_ids"], config, attention_mask=inputs["attention_mask"])
    for row in range(4):
        mine = slice(row * each, (row + 1) * each)
        assert torch.equal(mixed[mine], alone[row][mine])
    pool.close()
