"""Nets that transformers does not know, with square matrices that are stored (in, out) beside others, against PEFT.

No file shows how a square weight is stored. PEFT's flag has the value of the module that it visited last, so neither of
its values says anything of a module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from registry.errors import InvalidAdapterError
from tests.kit import RawTensor, read_model, write_model
from tests.kit.full_models import full_model
from tests.kit.nets import save_net
from tests.kit.peers import between_themselves
from tests.kit.shelf import Shelf

SIZE = 12


class Net(nn.Module):
    """Square matrices of both kinds, in the order of visit that leaves PEFT's flag as asked, and a wide Conv1D."""

    def __init__(self, *, last: str = "turned", wide: bool = True) -> None:
        super().__init__()
        self.emb = nn.Embedding(20, SIZE)
        self.wide = Conv1D(2 * SIZE, SIZE) if wide else nn.Linear(SIZE, 2 * SIZE)
        if last == "turned":
            self.straight = nn.Linear(SIZE, SIZE)
        self.turned = Conv1D(SIZE, SIZE)
        if last == "straight":
            self.straight = nn.Linear(SIZE, SIZE)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        wide = self.wide(x)
        found: torch.Tensor = self.turned(torch.tanh(self.straight(wide[..., :SIZE] * wide[..., SIZE:])))
        return found


STRAIGHT = {"kind": "linear"}
TURNED = {"kind": "linear", "transposed": True}
ALL = {"straight": STRAIGHT, "turned": TURNED, "wide": TURNED}


def _net(shelf: Shelf, *, declared: dict[str, Any] | None = None, **options: Any) -> tuple[str, Path, Net]:
    """The name of a base model, its folder, and the net."""
    torch.manual_seed(3)
    net, folder = Net(**options), shelf.folder()
    with torch.no_grad():
        for one in net.parameters():
            one.normal_(0, 0.3)
    save_net(folder, net)
    if declared is not None:
        (folder / "registry.json").write_text(json.dumps({"modules": declared}))
    name = folder.name
    shelf.registry.add_base(name, folder)
    return name, folder, net


def _output(net: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net(torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]]))
    return found


def _train(folder: Path, net: Net, targets: list[str], **config: Any) -> Any:
    """An adapter as PEFT saves it, and its wrapped model."""
    import peft

    torch.manual_seed(5)
    with between_themselves():
        wrapped = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=targets, **config))
        with torch.no_grad():
            for name, one in wrapped.named_parameters():
                if "lora_B" in name:
                    one.normal_(0, 0.3)
                elif "magnitude" in name:
                    one.mul_(1.3)
        wrapped.save_pretrained(folder)
    return wrapped.eval()


def _flag(folder: Path) -> bool:
    flag: bool = json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"]
    return flag


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("last", ["turned", "straight"])
def test_both_kinds_are_refused_whatever_the_flag_says(shelf: Shelf, last: str, dora: bool) -> None:
    base, _, net = _net(shelf, last=last)
    adapter = shelf.folder()
    _train(adapter, net, ["straight", "turned"], use_dora=dora)
    assert _flag(adapter) is (last == "turned")
    for only in ("straight", "turned"):
        one = shelf.folder()
        _train(one, Net(last=last), [only], use_dora=dora)
        with pytest.raises(InvalidAdapterError, match=f"{only}.*registry.json") as caught:
            shelf.registry.publish(one, f"{base}/{only}")
        assert caught.value.code == "undeclared_orientation"
    with pytest.raises(InvalidAdapterError) as caught:
        shelf.registry.publish(adapter, f"{base}/both")
    assert caught.value.code == "undeclared_orientation"


def test_the_flag_alone_refuses(shelf: Shelf) -> None:
    """No other matrix speaks; where the flag says nothing either, (out, in) is assumed, and said."""
    base, _, net = _net(shelf, wide=False)
    adapter, other = shelf.folder(), shelf.folder()
    _train(adapter, net, ["straight", "turned"])
    with pytest.raises(InvalidAdapterError, match="fan_in_fan_out is true"):
        shelf.registry.publish(adapter, f"{base}/both")
    _train(other, Net(wide=False), ["straight"])
    told = shelf.registry.publish(other, f"{base}/one").revision.notices
    assert any("'straight': the base's files do not show which way" in one for one in told)


def test_one_that_is_declared_speaks_for_others(shelf: Shelf) -> None:
    base, _, _ = _net(shelf, wide=False, declared={"turned": TURNED})
    adapter = shelf.folder()
    _train(adapter, Net(wide=False), ["straight"])
    with pytest.raises(InvalidAdapterError, match="'turned' is stored") as caught:
        shelf.registry.publish(adapter, f"{base}/one")
    assert caught.value.code == "undeclared_orientation"


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("last", ["turned", "straight"])
def test_declared_ones_are_what_peft_trained(shelf: Shelf, last: str, dora: bool) -> None:
    base, _, net = _net(shelf, last=last, declared=ALL)
    adapter, out = shelf.folder(), shelf.folder()
    wrapped = _train(adapter, net, ["straight", "turned", "wide"], use_dora=dora)
    wanted = _output(wrapped)
    added = shelf.registry.publish(adapter, f"{base}/both")
    assert not any("square" in one for one in added.revision.notices)
    shelf.registry.fetch(f"{base}/both", out, kind="merged")
    merged = Net(last=last)
    merged.load_state_dict({name: torch.from_numpy(raw.values).float() for name, raw in read_model(out).items()})
    assert torch.allclose(_output(merged), wanted, atol=1e-5)
    theirs = wrapped.merge_and_unload()
    expected = {name: RawTensor.of(one.double().numpy(), "F32") for name, one in theirs.state_dict().items()}
    assert max(abs(read_model(out)[name].values - one.values).max() for name, one in expected.items()) < 1e-6


def test_a_full_model_needs_the_declaration_too(shelf: Shelf) -> None:
    """As an adapter of a rank; exactly, it is kept as it is stored."""
    import peft

    base, folder, _ = _net(shelf)
    full = shelf.folder()
    (folder / "config.json").write_text("{}")
    full_model(full, folder, size=0.1, trained=lambda name: name.endswith("ed.weight") or "straight.weight" in name)
    with pytest.raises(InvalidAdapterError) as caught:
        shelf.registry.publish(full, f"{base}/rank", full=True, rank=SIZE)
    assert caught.value.code == "undeclared_orientation"
    wide = shelf.folder()
    full_model(wide, folder, size=0.1, trained=lambda name: name == "wide.weight")
    with pytest.raises(InvalidAdapterError, match=r"'wide'.*its bias fits \(in, out\) only"):
        shelf.registry.publish(wide, f"{base}/wide", full=True, rank=SIZE)
    shelf.registry.publish(full, f"{base}/exact", full=True)
    assert shelf.merged(f"{base}/exact")["turned.weight"] == read_model(full)["turned.weight"]

    (folder / "registry.json").write_text(json.dumps({"modules": ALL}))
    again = shelf.folder()
    write_model(again, read_model(folder))
    (again / "registry.json").write_text(json.dumps({"modules": ALL}))
    shelf.registry.add_base("told", again)
    out = shelf.folder()
    shelf.registry.publish(full, "told/rank", full=True, rank=SIZE)
    shelf.registry.fetch("told/rank", out, kind="published")
    net, trained = Net(), Net()
    for one, place in ((net, folder), (trained, full)):
        one.load_state_dict({name: torch.from_numpy(raw.values).float() for name, raw in read_model(place).items()})
    with between_themselves():
        loaded = peft.PeftModel.from_pretrained(net, str(out)).eval()
    assert torch.allclose(_output(loaded), _output(trained), atol=1e-5)


def test_a_full_model_does_not_show_embeddings(shelf: Shelf) -> None:
    base, folder, _ = _net(shelf)
    full = shelf.folder()
    full_model(full, folder, size=0.1, trained=lambda name: name == "emb.weight")
    told = shelf.registry.publish(full, f"{base}/emb", full=True, rank=2).revision.notices
    assert any("'emb': the full model does not show whether it is an embedding" in one for one in told)


def test_a_guessed_table_tells_what_it_assumes(shelf: Shelf, tmp_path: Path) -> None:
    class Guessed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.point, self.attn = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 1), nn.MultiheadAttention(4, 2)

    told = "\n".join(shelf.registry.add_base("guessed", save_net(tmp_path / "guessed", Guessed())).base.notices)
    assert "Every 2-D weight is taken as (out, in)" in told
    assert "No two modules are taken to share a weight" in told
    assert "'conv': the files do not record dilation and padding mode" in told
    assert "'attn': by the names of its tensors" in told
