"""Nets of one's own: what can be missed by a path beside the base is done right, or refused by name."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch

from registry.errors import RegistryError
from registry.pool import AdapterPool
from registry.pool.per_call.dispatch import Dispatched
from tests.kit.peers import wrap
from tests.kit.shelf import Shelf
from tests.pool.per_call import nets
from tests.pool.per_call.kinds import away
from tests.pool.per_call.net_pools import IDS, NetPool


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "dora"])
def test_it_equals_the_merged_net(shelf: Shelf, name: str, dora: bool) -> None:
    make, targets = nets.NETS[name]
    net = NetPool(shelf, make, targets, r=2, use_dora=dora)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            right, base = net.merged(), net.model(IDS)
            with net.pool.use(net.reference):
                assert away(net.model(IDS), right) < 1e-5
            assert away(base, right) > 1e-3
            assert torch.equal(net.model(IDS), base)


REFUSED = {
    "read by the net": (nets.ReadByTheNet, ["lin"], "The model itself"),
    "tied head": (nets.TiedHead, ["emb"], "The model itself"),
    "read from outside": (nets.ReadFromOutside, ["block.lin"], r"_Outside reads the weights of 'block\.lin'"),
    "cached": (nets.Cached, ["lin"], r"'lin' \(Caching\) sets attributes of its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_followed_is_refused(shelf: Shelf, name: str) -> None:
    make, targets, words = REFUSED[name]
    net = NetPool(shelf, make, targets)
    assert re.search(words, net.refusal())
    net.merged()


def test_a_class_without_a_file_is_told_by_the_names_in_it(shelf: Shelf) -> None:
    names: dict[str, Any] = {"Net": nets.Net, "functional": torch.nn.functional}
    exec(
        "class Typed(Net):\n"
        "    def body(self, x):\n"
        "        return functional.linear(x, self.lin.weight)\n"
        "class Harmless(Net):\n"
        "    def body(self, x):\n"
        "        return self.lin(x).tanh()\n",
        names,
    )
    assert "The model itself" in NetPool(shelf, names["Typed"], ["lin"]).refusal()
    net = NetPool(shelf, names["Harmless"], ["lin"])
    with net.pool.use(net.reference):
        found = net.model(IDS)
    assert away(found, net.merged()) < 1e-5


def test_a_path_is_made_for_any_mode_and_with_all_digits(shelf: Shelf) -> None:
    """Composed under autocast and inference mode, and used for gradients later: values and gradients are right."""
    for targets, config in ((["emb", "lin", "head"], {"use_dora": True}), (["lin"], {"modules_to_save": ["head"]})):
        net = NetPool(shelf, nets.Net, targets, **config)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            net.pool.set(net.reference)
        x = torch.randn(2, 6, 8)
        gradients = []
        for way in ("beside", "merged"):
            if way == "merged":
                net.pool.set(None)
                net.pool.merge(net.reference)
            given = x.clone().requires_grad_()
            net.model.head(net.model.body(given)).square().sum().backward()
            gradients.append(given.grad)
        assert gradients[0] is not None
        assert gradients[1] is not None
        assert away(gradients[0], gradients[1]) < 1e-5
        net.pool.close()


def test_merging_under_autocast_is_exact(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.Net, ["lin", "head"], use_dora=True)
    right = net.merged()
    with torch.autocast("cpu", torch.bfloat16):
        net.pool.merge(net.reference)
    assert torch.equal(net.model(IDS), right)


def test_autocast(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.Net, ["emb", "lin", "head"], use_dora=True)
    exact = net.merged()
    with torch.autocast("cpu", torch.bfloat16):
        right = net.merged()
        with net.pool.use(net.reference):
            found = net.model(IDS)
    assert found.dtype is right.dtype
    assert away(found, exact) < 2 * away(right, exact) + 1e-3


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_functional_transforms(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.Net, ["emb", "lin"], use_dora=True)
    right = net.merged()
    with net.pool.use(net.reference), torch.no_grad():
        each = torch.func.vmap(net.model)(IDS.unsqueeze(1)).squeeze(1)
        assert away(each, right) < 1e-5
    x = torch.randn(2, 3, 8)
    with net.pool.merged(net.reference):
        wanted = torch.func.jacrev(net.model.body)(x)
    with net.pool.use(net.reference):
        assert away(torch.func.jacrev(net.model.body)(x), wanted) < 1e-5


def test_what_is_set_on_a_module_later_is_followed(shelf: Shelf) -> None:
    """Modules that run with whole weights are as the model's are now, not as they were when the path was composed."""

    class Dropping(nets.OwnLinear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return super().forward(input) * (0 if self.training else 1)

    class Net(nets.Net):
        def __init__(self) -> None:
            super().__init__()
            self.lin = Dropping(8, 8)

    net = NetPool(shelf, Net, ["lin"])
    net.model.train()
    with net.pool.use(net.reference):
        dropped = net.model(IDS)
        net.model.eval()
        found = net.model(IDS)
    assert away(found, net.merged()) < 1e-5 < away(dropped, found)


def test_copies_of_a_model_in_use_are_free_of_paths(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.ReadInside, ["block.lin", "emb"], modules_to_save=["head"])
    base = net.model(IDS)
    with net.pool.use(net.reference):
        inside = net.model(IDS)
        twins = [copy.deepcopy(net.model), pickle.loads(pickle.dumps(net.model))]
        for twin in twins:
            assert torch.equal(twin(IDS), base)
            assert not any(isinstance(vars(one).get("forward"), Dispatched) for one in twin.modules())
    for twin in twins:
        with AdapterPool(twin, shelf.registry, base=net.name) as pool, pool.use(net.reference):
            assert torch.equal(twin(IDS), inside)
    net.pool.close()
    assert not any("forward" in vars(one) for one in net.model.modules())
    assert torch.equal(net.model(IDS), base)


def test_parametrizations_are_not_the_base(shelf: Shelf) -> None:
    net = NetPool(shelf, nets.Net, ["lin"])
    net.pool.close()
    torch.nn.utils.parametrizations.weight_norm(net.model.lin)
    with pytest.raises(RegistryError) as found:
        AdapterPool(net.model, shelf.registry, base=net.name)
    assert found.value.code == "wrong_base"


@pytest.mark.slow
def test_scaled_embeddings_of_transformers(shelf: Shelf) -> None:
    """A scale is rounded to the weight's dtype first, as the class does it."""
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

    config = Gemma3TextConfig(
        vocab_size=40, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(2)
    folder, adapter = shelf.folder(), shelf.folder()
    Gemma3ForCausalLM(config).save_pretrained(folder)
    shelf.registry.add_base("gemma", folder)
    model = Gemma3ForCausalLM.from_pretrained(folder)
    options: dict[str, Any] = {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}
    wrap(adapter, Gemma3ForCausalLM.from_pretrained(folder), b_scale=0.5, **options)
    reference = shelf.path("gemma", [adapter])
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        model = Gemma3ForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        with AdapterPool(model, shelf.registry) as pool, torch.no_grad():
            with pool.merged(reference):
                right = model(IDS).logits
            with pool.use(reference):
                assert away(model(IDS).logits, right) < bound
