"""No sibling moves another: dropout, padding, what is not finite, who else is there, and going on later."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import peft
import pytest
import torch

from registry.errors import UsageError
from registry.pool.parallel_training import Siblings
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Batch, Nursery, mine, peft_names, texts, values_of

Q = ["q_proj", "up_proj"]


@pytest.fixture(scope="module")
def nursery(shelf: Shelf) -> Nursery:
    return Nursery(shelf, "llama")


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "target_modules": Q, "init_lora_weights": False, **options})


def trained(
    nursery: Nursery,
    given: dict[str, Any],
    work: Sequence[tuple[Batch, Sequence[str | None]]],
    path: str,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """A sibling's values after some steps."""
    with nursery.pool() as pool, pool.siblings(given, nursery.parent, **options) as siblings:
        pool._model.train()
        for batch, rows in work:
            siblings.step(batch, rows)
        return values_of(siblings, path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7) for name in one
    )


@pytest.mark.parametrize("dora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dropout_does_not_depend_on_who_else_is_there(nursery: Nursery, dora: bool) -> None:
    """Nor on how long the others' rows are: alone, rows are shorter here."""
    own, other = nursery.path("own"), nursery.path("other")
    config = lora(lora_dropout=0.5, use_dora=dora)
    rows = [other, own, own, other]
    work = [(texts(4, length=11, seed=seed), rows) for seed in range(3)]
    alone = [(mine(batch, rows, own, cut=True), [own, own]) for batch, _ in work]
    assert alone[0][0]["input_ids"].shape[1] < 11
    options: Any = {"learning_rate": 0.01, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.5)}
    together = trained(nursery, {own: config, other: lora(lora_dropout=0.3)}, work, own, **options)
    assert close(together, trained(nursery, {own: config}, alone, own, **options))
    assert not close(together, trained(nursery, {own: config}, alone, own, seed=1, **options))
    assert not close(together, trained(nursery, {own: lora(use_dora=dora)}, alone, own, **options))


def test_dropout_is_of_the_path(nursery: Nursery) -> None:
    """Two with the same configuration, and with one seed: they begin with other values and drop other things."""
    first, second = nursery.path("first"), nursery.path("second")
    with nursery.pool() as pool, pool.siblings(dict.fromkeys((first, second), lora()), nursery.parent) as siblings:
        states = [siblings.state_dict()[path] for path in (first, second)]
        assert not torch.equal(states[0]["dropout"], states[1]["dropout"])
        assert not same(values_of(siblings, first), values_of(siblings, second))


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_is_that_of_peft(nursery: Nursery, dora: bool) -> None:
    """PEFT's gradients, where what it drops comes from a stream of the same seed."""
    path = nursery.path("own")
    config = lora(lora_dropout=0.4, use_dora=dora)
    batch = texts(3)
    del batch["attention_mask"]
    with nursery.pool() as pool, pool.siblings({path: config}, nursery.parent) as siblings:
        pool._model.train()
        stream = torch.Generator()
        stream.set_state(siblings._siblings[path].generator.get_state())

        class FromStream(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * torch.empty_like(x).bernoulli_(0.6, generator=stream) / 0.6

        alone = nursery.alone(config, values_of(siblings, path)).train()
        for module in alone.modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = FromStream()
        alone(**batch).loss.backward()
        with siblings.rows([path] * 3):
            out = pool._model(input_ids=batch["input_ids"])
        torch.autograd.backward(siblings.losses(out, batch["labels"])[path])
        for name, one in siblings.named_parameters(path).items():
            other = peft_names(alone)[name].grad
            assert one.grad is not None
            assert other is not None
            torch.testing.assert_close(one.grad, other, rtol=1e-5, atol=1e-7)


def test_one_with_nan_is_set_aside_and_the_others_do_not_see_it(nursery: Nursery) -> None:
    good, bad = nursery.path("good"), nursery.path("bad")
    given = {good: lora(use_dora=True), bad: lora()}
    rows = [good, bad, good, bad]
    work = [(texts(4, seed=seed), rows) for seed in range(4)]

    def run(broken: bool) -> tuple[dict[str, torch.Tensor], list[Any], dict[str, str]]:
        with nursery.pool() as pool, pool.siblings(given, nursery.parent) as siblings:
            steps = []
            for number, (batch, names) in enumerate(work):
                if broken and number == 1:
                    with torch.no_grad():
                        next(iter(siblings.named_parameters(bad).values())).fill_(float("nan"))
                steps.append(siblings.step(batch, names))
            if broken:
                assert siblings.publish([good])
                with pytest.raises(UsageError, match="set aside"):
                    siblings.publish([bad])
                with pytest.raises(UsageError, match="set aside"):
                    siblings.save(bad, "never")
            return values_of(siblings, good), steps, siblings.set_aside

    values, steps, aside = run(broken=True)
    assert set(aside) == {bad}
    assert "nan, after 1 updates" in aside[bad]
    assert [set(step.losses) for step in steps] == [{good, bad}, {good}, {good}, {good}]
    assert [set(step.set_aside) for step in steps] == [set(), {bad}, set(), set()]
    right, others, none = run(broken=False)
    assert same(values, right)
    assert [step.losses[good] for step in steps] == [step.losses[good] for step in others]
    assert not none


def test_a_gradient_that_is_not_finite_sets_aside(nursery: Nursery) -> None:
    good, bad = nursery.path("good"), nursery.path("bad")

    def loss(logits: torch.Tensor, labels: Any) -> torch.Tensor:
        # the square root has no derivative at zero
        return logits.sum() * 0 + (logits.sum() * 0).sqrt() if labels.sum() == 0 else logits.square().mean()

    batch = {**texts(2), "labels": torch.tensor([1, 0])}
    with nursery.pool() as pool, pool.siblings({good: lora(), bad: lora()}, nursery.parent, loss=loss) as siblings:
        step = siblings.step(batch, [good, bad])
        assert set(step.losses) == {good, bad}
        assert set(step.grad_norms) == {good}
        assert "gradient" in step.set_aside[bad]
        assert siblings.step(batch, [bad, bad]).losses == {}  # nothing is left of it to be trained


def test_training_goes_on_from_a_state(nursery: Nursery) -> None:
    first, second = nursery.path("first"), nursery.path("second")
    given = {first: lora(lora_dropout=0.2), second: lora(use_dora=True)}
    work = [(texts(2, seed=seed), [first, second]) for seed in range(4)]
    whole = trained(nursery, given, work, first, seed=4)

    def part(state: Any, some: Sequence[Any]) -> tuple[Any, dict[str, torch.Tensor]]:
        with nursery.pool() as pool, pool.siblings(given, nursery.parent, seed=4 if state is None else 5) as siblings:
            pool._model.train()
            if state is not None:
                siblings.load_state_dict(state)
            for batch, rows in some:
                siblings.step(batch, rows)
            return siblings.state_dict(), values_of(siblings, first)

    state, _ = part(None, work[:2])
    kept = io.BytesIO()
    torch.save(state, kept)
    kept.seek(0)
    _, values = part(torch.load(kept), work[2:])
    assert same(values, whole)
    with nursery.pool() as pool:
        with pool.siblings({first: lora()}, nursery.parent) as siblings, pytest.raises(UsageError, match="state is of"):
            siblings.load_state_dict(state)
        other = {first: lora(r=3), second: lora()}
        with pool.siblings(other, nursery.parent) as siblings, pytest.raises(UsageError, match="another configuration"):
            siblings.load_state_dict(state)


def test_rows_of_none_run_as_the_parent(nursery: Nursery) -> None:
    path = nursery.path("own")
    batch = texts(3)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with nursery.pool() as pool, pool.siblings({path: lora()}, nursery.parent) as siblings, torch.no_grad():
        parent = pool._model(**inputs).logits
        with siblings.rows([None, path, None]):
            mixed = pool._model(**inputs).logits
        assert torch.equal(mixed[[0, 2]], parent[[0, 2]])
        assert not torch.allclose(mixed[1], parent[1])
        assert torch.equal(pool._model(**inputs).logits, parent)


def test_what_is_frozen_may_be_trained_again_after_it(nursery: Nursery) -> None:
    with nursery.pool() as pool:
        assert all(one.requires_grad for one in pool._model.parameters())
        siblings: Siblings = pool.siblings({nursery.path("own"): lora()}, nursery.parent)
        assert not any(one.requires_grad for one in pool._model.parameters())
        siblings.close()
        siblings.close()
        assert all(one.requires_grad for one in pool._model.parameters())
        assert pool.path is None
        with pytest.raises(UsageError, match="closed"), siblings.rows([None]):
            pass
