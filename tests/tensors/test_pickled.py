"""Adapters of old versions of PEFT: their tensors are read as torch reads them, and nothing of a pickle is run."""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import InvalidAdapterError
from registry.tensors.limited import answer, convert_pickle


class Malicious:
    def __init__(self, call: Any, *words: object) -> None:
        self.call = call, words

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    square = torch.randn(6, 6)
    return {
        "a.lora_A.weight": torch.randn(4, 6),
        "a.lora_B.weight": torch.randn(6, 4).to(torch.bfloat16),
        "b.lora_A.weight": square.T,
        "b.lora_B.weight": square[1:3],
        "half": torch.randn(3).half(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2, dtype=torch.float64)),
        "whole": torch.arange(5),
    }


def asked(pickle: Path, most: int = 1 << 20) -> str | None:
    """What the child says, asked in this process."""
    return answer({"pickle": str(pickle), "out": str(pickle.with_name("out")), "most": most})["refused"]


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_the_values_are_those_that_torch_reads(how: dict[str, Any], tmp_path: Path) -> None:
    pickle, out = tmp_path / "adapter_model.bin", tmp_path / "out.safetensors"
    torch.save(collections.OrderedDict(tensors()), pickle, **how)
    assert asked(pickle, pickle.stat().st_size * 2) is None
    read, expected = load_file(tmp_path / "out"), torch.load(pickle, weights_only=True)
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor.detach())
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors().items()}
    save_file(plain, tmp_path / "peft", metadata={"format": "pt"})  # as PEFT saves
    assert (tmp_path / "out").read_bytes() == (tmp_path / "peft").read_bytes()
    if not how:
        convert_pickle(pickle, out)  # in the child
        assert out.read_bytes() == (tmp_path / "peft").read_bytes()


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_something_runs_nothing(how: dict[str, Any], tmp_path: Path) -> None:
    pickle, mark = tmp_path / "adapter_model.bin", tmp_path / "mark"
    torch.save({"a": torch.ones(2), "b": Malicious(os.system, f"touch {mark}")}, pickle, **how)
    assert asked(pickle) == f"it asks for {os.name}.system"
    assert not mark.exists()


@pytest.mark.slow
def test_the_child_refuses_such_a_pickle(tmp_path: Path) -> None:
    pickle, mark = tmp_path / "adapter_model.bin", tmp_path / "mark"
    torch.save({"a": torch.ones(2), "b": Malicious(os.system, f"touch {mark}")}, pickle)
    with pytest.raises(InvalidAdapterError, match="pickle of which nothing but tensors is read") as caught:
        convert_pickle(pickle, tmp_path / "out.safetensors")
    assert caught.value.code == "pickle"
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"a": Malicious(eval, "1")}, "it asks for "),
        ({"a": Malicious(torch.load, "x")}, "it asks for torch"),
        ({"a": 1}, "'a', which is no tensor"),
        ({1: torch.ones(2)}, "'1', which is no tensor"),
        ({}, "no tensors by their names"),
        ([torch.ones(2)], "no tensors by their names"),
        (torch.ones(2), "no tensors by their names"),
        ({"a": {"b": torch.ones(2)}}, "'a', which is no tensor"),
        ({"a": torch.eye(3).to_sparse()}, "none that safetensors can hold"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "none that safetensors can hold"),
        ({"a": torch.ones(1).expand(1 << 40)}, "claim 4398046511104 bytes"),
        ({"a": torch.ones(2, device="meta")}, "none that safetensors can hold"),
    ],
)
def test_what_is_no_tensor_by_its_name_is_refused(held: object, why: str, tmp_path: Path) -> None:
    pickle = tmp_path / "adapter_model.bin"
    torch.save(held, pickle)
    assert why in (asked(pickle) or "")
    assert not (tmp_path / "out").exists()


def test_no_pickle_at_all_and_one_that_is_cut_off(tmp_path: Path) -> None:
    pickle = tmp_path / "adapter_model.bin"
    torch.save(tensors(), pickle)
    for data in (b"", b"text", pickle.read_bytes()[:-200]):
        pickle.write_bytes(data)
        assert "it is damaged or holds something else" in (asked(pickle) or "")


@pytest.mark.slow
def test_limits_of_time_and_memory_end_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle, out = tmp_path / "adapter_model.bin", tmp_path / "out.safetensors"
    torch.save({"a": torch.zeros(1 << 20)}, pickle)
    for name, limit in (("_MEMORY", 1 << 20), ("_SECONDS", 0.001)):
        with monkeypatch.context() as patch:
            patch.setattr("registry.tensors.limited._TIMES_MEMORY", 1)
            patch.setattr(f"registry.tensors.limited.{name}", limit)
            with pytest.raises(InvalidAdapterError, match=r"ended without a result|took longer than") as caught:
                convert_pickle(pickle, out)
            assert caught.value.code == "pickle"
            assert not out.exists()
