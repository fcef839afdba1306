"""Which running models a pool takes, and which it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from registry.errors import IntegrityError, RegistryError, UsageError
from registry.pool import AdapterPool
from tests.kit.peers import between_themselves, load_model
from tests.kit.shelf import Shelf
from tests.pool.trees import Tree, bits


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    Tree(shelf, "llama")  # another base, to be told from it
    found = Tree(shelf, "tied llama")
    found.publish("head")
    return found


def refused(tree: Tree, model: nn.Module) -> RegistryError:
    with pytest.raises(RegistryError) as found:
        AdapterPool(model, tree.registry)
    return found.value


def test_one_other_bit_is_another_model(tree: Tree) -> None:
    for name, dtype in (("model.norm.weight", torch.float32), ("model.layers.1.mlp.up_proj.weight", torch.bfloat16)):
        model = load_model(tree.base.folder, dtype)
        with torch.no_grad():
            model.get_parameter(name).view(-1)[-1].mul_(1.01)
        error = refused(tree, model)
        assert (error.code, type(error)) == ("wrong_base", IntegrityError)
        assert name in str(error)
        model(torch.tensor([[1, 2]]))  # it is not guarded


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_of_other_depth_is_not_the_base(tree: Tree, layers: int) -> None:
    model = tree.load()
    own = model.model.layers
    model.model.layers = nn.ModuleList([*own, *own][:layers])
    assert refused(tree, model).code == "wrong_base"


def test_a_model_without_the_head_is_taken_and_so_is_another_head(tree: Tree) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    reference = tree.references[0]
    out = tree.shelf.folder()
    tree.registry.fetch(reference, out, kind="merged", dtype="fp32")
    for auto in (AutoModel, AutoModelForSequenceClassification):
        torch.manual_seed(1)
        model = auto.from_pretrained(tree.base.folder, dtype=torch.float32)
        torch.manual_seed(1)
        right = auto.from_pretrained(out, dtype=torch.float32)
        before = bits(model)
        with pytest.raises(UsageError, match="Several base models"):  # they differ in their heads
            AdapterPool(model, tree.registry)
        with AdapterPool(model, tree.registry, base=tree.name) as pool:
            pool.merge(reference)
            found, wanted = bits(model), bits(right)
            assert {name for name in found if found[name] != wanted[name]} <= {"score.weight"}
        assert bits(model) == before


def test_training_under_a_pool_is_noticed(tree: Tree) -> None:
    model = tree.load()
    pool = AdapterPool(model, tree.registry)
    pool.merge(tree.references[0])
    torch.optim.SGD(model.parameters(), 0.1).zero_grad()
    model(torch.tensor([[1, 2]])).logits.sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    trained = bits(model)
    for change in (pool.unmerge, lambda: pool.merge(tree.references[0]), pool.close):
        with pytest.raises(IntegrityError, match="changed by something else") as found:
            change()
        assert found.value.code == "model_changed"
    assert bits(model) == trained
    model(torch.tensor([[1, 2]]))


def test_gradients_flags_and_the_objects_stay(tree: Tree) -> None:
    model = tree.load()
    model.requires_grad_(requires_grad=False)
    parameters = dict(model.named_parameters())
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(tree.references[0])
        assert not any(one.requires_grad for one in model.parameters())
    assert all(one is parameters[name] for name, one in model.named_parameters())


def _offloaded() -> nn.Module:
    return nn.Linear(2, 2, device="meta")


def _hooked() -> nn.Module:
    net = nn.Linear(2, 2)
    net._hf_hook = object()  # type: ignore[assignment]
    return net


def _eight_bits() -> nn.Module:
    net = nn.Linear(2, 2)
    net.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    return net


def _of_package(package: str, name: str = "Linear") -> nn.Module:
    kind = type(name, (nn.Linear,), {"__module__": f"{package}.nn"})
    net: nn.Module = nn.Sequential(kind(2, 2))
    return net


class _Subclass(torch.Tensor):
    pass


def _of_class(name: str) -> nn.Module:
    kind = type(name, (_Subclass,), {})
    net = nn.Linear(2, 2)
    net.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(kind))
    return net


REFUSED = {
    "offloaded": (_offloaded, "offloaded"),
    "hooks": (_hooked, "accelerate"),
    "int8": (_eight_bits, "quantised"),
    "bitsandbytes": (lambda: _of_package("bitsandbytes"), "quantised"),
    "gptq": (lambda: _of_package("gptqmodel"), "quantised"),
    "torchao": (lambda: _of_class("AffineQuantizedTensor"), "quantised"),
    "dtensor": (lambda: _of_class("DTensor"), "distributed"),
    "fsdp": (lambda: _of_package("torch.distributed.fsdp", "FullyShardedDataParallel"), "FSDP"),
    "fsdp2": (lambda: _of_package("torch.distributed.fsdp", "FSDPModule"), "FSDP"),
    "parallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "DataParallel"),
    "compiled": (lambda: _of_package("torch._dynamo", "OptimizedModule"), "torch.compile"),
    "lazy": (lambda: nn.LazyLinear(2), "not loaded"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_by_name(tree: Tree, kind: str) -> None:
    make, word = REFUSED[kind]
    model: Any = make()
    error = refused(tree, model)
    assert (type(error), error.code) == (UsageError, "unsupported_model")
    assert word in str(error)


def test_a_model_with_an_adapter_of_peft_is_refused(tree: Tree) -> None:
    import peft

    with between_themselves():
        wrapped = peft.get_peft_model(tree.load(), peft.LoraConfig(target_modules=["q_proj"]))
    for model in (wrapped, wrapped.base_model.model):
        error = refused(tree, model)
        assert error.code == "unsupported_model"
        assert "PEFT" in str(error)


def test_memory_is_a_size(tree: Tree) -> None:
    with pytest.raises(UsageError, match="2GiB"):
        AdapterPool(tree.load(), tree.registry, memory="much")


@pytest.fixture(params=["cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def test_on_another_device(tree: Tree, device: str) -> None:
    model = tree.load().to(device)
    with AdapterPool(model, tree.registry) as pool:
        pool.merge(tree.references[0])
        assert bits(model) == tree.bits(tree.references[0])
    assert bits(model) == tree.bits(None)
