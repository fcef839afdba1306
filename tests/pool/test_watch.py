"""What else writes the weights under a pool is noticed: at once where PyTorch tells, else at their next change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from registry.errors import IntegrityError
from registry.pool import AdapterPool
from registry.pool.layout import LiveTensor
from registry.pool.live_weights import SAMPLES, Watch
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Nursery, texts
from tests.pool.trees import Tree, bits

IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    found.publish("plain")
    return found


def weight(model: Any) -> nn.Parameter:
    """One that no path of the tests changes."""
    found: nn.Parameter = model.model.layers[1].mlp.up_proj.weight
    return found


def _assigned(model: Any) -> None:
    weight(model).data = weight(model).data * 2


def _cut_again(model: Any) -> None:
    found = weight(model)
    found.data = found.data.view(-1).as_strided(found.shape, (1, found.shape[0]))  # other order, same memory


def _vector(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0.5, model.parameters())


def _swapped(model: Any) -> None:
    torch.utils.swap_tensors(weight(model), nn.Parameter(torch.zeros_like(weight(model))))  # type: ignore[no-untyped-call]


def _loaded(model: Any, *, assign: bool) -> None:
    model.load_state_dict({name: one * 1.5 for name, one in model.state_dict().items()}, assign=assign)


def _untied(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)


def _stepped(model: Any, **options: Any) -> None:
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    with torch.no_grad():
        torch.optim.AdamW(model.parameters(), 0.1, **options).step()


def _in_inference(model: Any) -> None:
    with torch.inference_mode():
        weight(model).mul_(2)


NOTICED_AT_ONCE: dict[str, Callable[[Any], object]] = {
    "half": lambda model: model.half(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "assigned": _assigned,
    "cut again": _cut_again,
    "vector_to_parameters": _vector,
    "swap_tensors": _swapped,
    "loaded": lambda model: _loaded(model, assign=False),
    "loaded and assigned": lambda model: _loaded(model, assign=True),
    "untied": _untied,
    "fused": lambda model: _stepped(model, fused=True),
    "data of all": lambda model: [one.data.mul_(1.5) for one in model.parameters()],
    "foreach": lambda model: _stepped(model, foreach=True),
    "inference mode": _in_inference,
    "parametrised": lambda model: nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj),
    "pruned": lambda model: nn.utils.parametrize.register_parametrization(model.lm_head, "weight", nn.Identity()),
}
NOTICED_AT_A_CHANGE: dict[str, Callable[[Any], object]] = {
    "data": lambda model: weight(model).data.mul_(1.5),
    "data of a norm": lambda model: model.model.norm.weight.data.neg_(),
    "numpy": lambda model: weight(model).detach().numpy().__imul__(2),
}


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(IntegrityError) as found:
        act()
    assert found.value.code == "model_changed"
    return str(found.value)


@pytest.mark.parametrize("change", [*NOTICED_AT_ONCE, *NOTICED_AT_A_CHANGE])
def test_every_way_of_writing_is_noticed(tree: Tree, change: str, tmp_path: Any) -> None:
    (reference,) = tree.references
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    with pool.use(reference):
        pass
    {**NOTICED_AT_ONCE, **NOTICED_AT_A_CHANGE}[change](model)
    if change in NOTICED_AT_ONCE:
        refused(lambda: pool.use(reference).__enter__())
        refused(lambda: pool.use([None, reference]).__enter__())
        refused(lambda: pool.set(reference))
    for act in (lambda: pool.merge(reference), lambda: pool.save(tmp_path / "saved"), pool.unmerge, pool.close):
        refused(act)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", NOTICED_AT_A_CHANGE)
def test_a_merged_model_that_was_written_to_is_not_unmerged_in_silence(tree: Tree, change: str) -> None:
    (reference,) = tree.references
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    pool.merge(reference)
    NOTICED_AT_A_CHANGE[change](model)
    assert "it holds other values" in refused(pool.unmerge)
    refused(pool.close)


def test_one_written_tensor_is_noticed_within_as_many_uses_as_there_are_tensors(tree: Tree) -> None:
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    for _ in range(2 * len(tree.bits(None))):
        with pool.use(None):
            pass
    weight(model).data.mul_(1.5)
    names = {id(one) for one in model.parameters()}

    def use_often() -> None:
        for _ in names:
            with pool.use(None):
                pass

    assert "up_proj" in refused(use_often)


def test_what_the_path_itself_wrote_is_watched_too(tree: Tree) -> None:
    (reference,) = tree.references
    for path in (None, reference):
        model = tree.load()
        pool = AdapterPool(model, tree.registry)
        if path is not None:
            pool.merge(path)
        model.model.layers[0].self_attn.q_proj.weight.data.mul_(2)
        assert "layers.0.self_attn.q_proj" in refused(pool.close)


def test_a_model_in_inference_mode_counts_nothing_and_its_values_are_compared(tree: Tree) -> None:
    with torch.inference_mode():
        model = tree.load()
        weight(model).data = weight(model).clone()
        pool = AdapterPool(model, tree.registry)
        pool.merge(tree.references[0])
        pool.unmerge()
        weight(model).mul_(2)
        refused(pool.close)


def test_a_call_that_can_not_run_any_more_says_why(tree: Tree) -> None:
    (reference,) = tree.references
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    with pool.use(reference):
        with pytest.raises(RuntimeError, match="size of tensor"):  # of the caller's own making
            model(inputs_embeds=torch.zeros(1, 2, 3))
        model.half()
        assert "was float32 and is float16 now" in refused(lambda: model(IDS))
    model.float()
    refused(lambda: pool.set(None))


def test_what_does_not_change_weights_is_let_be(tree: Tree) -> None:
    (reference,) = tree.references
    model = tree.load()
    state = torch.get_rng_state()
    with AdapterPool(model, tree.registry) as pool:
        assert torch.equal(torch.get_rng_state(), state)
        for do in (
            model.train,
            model.eval,
            model.float,
            lambda: model.to("cpu"),
            model.requires_grad_,
            model.zero_grad,
        ):
            do()
            with pool.use(reference), torch.no_grad():
                model(IDS)
            with pool.merged(reference):
                assert bits(model) == tree.bits(reference)
    assert bits(model) == tree.bits(None)


def test_siblings_of_a_parent_that_was_written_to_are_not_saved(shelf: Shelf, tmp_path: Any) -> None:
    nursery = Nursery(shelf, "llama")
    path = nursery.path("own")
    pool = nursery.pool()
    siblings = pool.siblings({path: {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}}, nursery.parent)
    siblings.step(texts(1), [path])
    weight(pool._model).data.mul_(2)
    refused(lambda: siblings.save(path, tmp_path / "saved"))
    refused(siblings.publish)
    assert not list(tmp_path.iterdir())


def watched(count: int, seed: int) -> tuple[Watch, torch.Tensor]:
    net = nn.Linear(1, count, bias=False)
    one = LiveTensor("weight", net, "weight", "weight", None, ())
    watch = Watch(net, {"weight": one}, seed)
    watch.take(["weight"])
    return watch, net.weight.data.view(-1)


def finds(watch: Watch) -> bool:
    try:
        watch.check_samples(lambda _: False)
    except IntegrityError:
        return True
    return False


def test_the_chance_to_find_some_changed_elements_is_the_stated_one() -> None:
    count = 40 * SAMPLES + 17
    for changed in (20, 60):
        found = 0
        for seed in range(200):
            watch, values = watched(count, seed)
            chance = torch.Generator().manual_seed(1000 + seed)
            values[torch.randperm(count, generator=chance)[:changed]] += 1
            found += finds(watch)
        stated = 1 - (1 - changed / count) ** SAMPLES
        assert abs(found / 200 - stated) < 0.12  # three times the deviation of 200 draws


def test_whole_tensors_and_long_runs_are_always_found() -> None:
    for count in (1, SAMPLES, SAMPLES + 1, 30 * SAMPLES + 11):
        for seed in range(20):
            watch, values = watched(count, seed)
            assert not finds(watch)
            at = (seed * 7919) % count
            run = 1 if count <= SAMPLES else 2 * count // SAMPLES + 2
            values[min(at, count - run) :][:run] += 1
            assert finds(watch)
            watch.see("weight")
            watch.take(["weight"])
            values.neg_()
            assert finds(watch)
