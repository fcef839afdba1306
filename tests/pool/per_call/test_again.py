"""Gradient checkpointing runs modules again: gradients are right where the same runs then, and else an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from registry.errors import UsageError
from tests.kit.shelf import Shelf
from tests.pool.per_call import nets
from tests.pool.per_call.kinds import away
from tests.pool.per_call.net_pools import IDS, NetPool


class Checkpointed(nets.Net):
    """Runs its body again in the backward pass, while that is switched on."""

    checkpointing = True
    reentrant = False

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if not self.checkpointing:
            return super().body(x)
        found: torch.Tensor = checkpoint(super().body, x, use_reentrant=self.reentrant)
        return found


class Running:
    """A net in a pool, and its gradients without checkpointing: of the base, and of the path while it is merged."""

    def __init__(self, shelf: Shelf, *, reentrant: bool) -> None:
        self.net = NetPool(shelf, Checkpointed, ["lin"], use_dora=True)
        self.pool, self.reference = self.net.pool, self.net.reference
        self.net.model.checkpointing = False
        self.base = self.gradient(self.loss())
        with self.pool.merged(self.reference):
            self.merged = self.gradient(self.loss())
        self.net.model.checkpointing = True
        self.net.model.reentrant = reentrant
        assert away(self.base, self.merged) > 1e-3

    def loss(self) -> torch.Tensor:
        found: torch.Tensor = self.net.model(IDS).sum()
        return found

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        self.net.model.zero_grad()
        torch.autograd.backward(loss)
        found: torch.Tensor = self.net.model.emb.weight.grad
        return found.clone()

    def used(self) -> torch.Tensor:
        """The loss of the path, outside of its block."""
        with self.pool.use(self.reference):
            return self.loss()

    def refused(self, loss: torch.Tensor, said: str = "gradient checkpointing") -> None:
        with pytest.raises(UsageError, match=said):
            torch.autograd.backward(loss)


@pytest.fixture(params=[False, True], ids=["", "reentrant"])
def running(shelf: Shelf, request: pytest.FixtureRequest) -> Iterator[Running]:
    found = Running(shelf, reentrant=request.param)
    yield found
    found.pool.close()


def test_within_the_block_gradients_are_those_of_the_merged_model(running: Running) -> None:
    with running.pool.use(running.reference):
        assert away(running.gradient(running.loss()), running.merged) < 1e-5
        loss = running.loss()
        with running.pool.use(None):
            running.refused(loss)
    running.pool.set(running.reference)
    assert away(running.gradient(running.loss()), running.merged) < 1e-5
    running.pool.set(None)


def test_after_a_use_with_gradients_the_base_and_merged_paths_go_on(running: Running) -> None:
    running.refused(running.used())
    for _ in range(2):
        assert torch.equal(running.gradient(running.loss()), running.base)
        with running.pool.merged(running.reference):
            assert torch.equal(running.gradient(running.loss()), running.merged)
    running.net.model.checkpointing = False
    assert away(running.gradient(running.used()), running.merged) < 1e-5
    running.net.model.checkpointing = True
    assert torch.equal(running.gradient(running.loss()), running.base)


def test_a_call_of_the_base_is_not_run_again_with_a_path(running: Running) -> None:
    loss = running.loss()
    with running.pool.use(running.reference):  # no call yet, so that no path ever ran for gradients
        running.refused(loss)
    loss = running.loss()
    running.pool.set(running.reference)
    running.refused(loss)
    running.pool.set(None)
    assert torch.equal(running.gradient(running.loss()), running.base)


def test_calls_of_two_paths_in_one_backward_pass(running: Running) -> None:
    base = running.loss()
    with running.pool.use(running.reference):
        running.refused(running.loss() + base)
    running.refused(running.used() + running.loss())


def test_weights_that_were_changed_since(running: Running) -> None:
    """Without checkpointing PyTorch refuses; with it, the weights of now would be used."""
    with running.pool.merged(running.reference):
        loss = running.loss()
    running.refused(loss, "before the weights change")
    loss = running.loss()
    running.pool.merge(running.reference)
    running.refused(loss, "before the weights change")
    loss = running.loss()
    running.pool.merge(running.reference)  # writes nothing
    assert torch.equal(running.gradient(loss), running.merged)
    running.pool.unmerge()


def test_a_part_that_ran_with_a_path_by_itself(running: Running) -> None:
    net: Any = running.net.model
    with running.pool.use(running.reference):
        loss = net.body(net.emb(IDS)).sum()
    running.refused(loss)
    running.refused(running.loss())  # which may hold such a part
