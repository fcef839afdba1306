"""What the child imports instead of whole packages changes no fact of a model, and where it fails all is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.tensors.table import architecture
from registry.tensors.table.architecture import make_table
from tests.root import ROOT

TYPES = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
    "mixtral": "MixtralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "falcon": "FalconForCausalLM",
    "mamba": "MambaForCausalLM",
    "vit": "ViTForImageClassification",
    "clip": "CLIPModel",
    "whisper": "WhisperForConditionalGeneration",
    "wav2vec2": "Wav2Vec2ForCTC",
    "mask2former": "Mask2FormerForUniversalSegmentation",
}
LEFT_TO_THE_SECOND = {
    "mask2former": "cannot import name",  # from transformers itself
    "wav2vec2": "no fake impl or Meta kernel",  # of weight norm: that is in `torch._meta_registrations`
}
SCRIPT = """
import json, os, sys
sys.path.append(sys.argv[1])
from registry.tensors.table import architecture_child, stand_ins
if sys.argv[2] == "stand-ins":
    stand_ins.install()
import torch, transformers
assert stand_ins.is_bare(transformers) == (sys.argv[2] == "stand-ins")
answers = []
for request in json.load(sys.stdin):
    first = architecture_child.answer({**request, "tensors": {}})
    names = [f"{name}.{key}".strip(".") for name, _, _, keys in first.get("modules", ()) for key, _ in keys]
    answers.append(architecture_child.answer({**request, "tensors": dict.fromkeys(names)}))
real = [name for name in stand_ins.NAMES if getattr(sys.modules.get(name), "__file__", None)]
os.write(1, json.dumps([answers, real]).encode())
os._exit(0)
"""


def _answers(how: str) -> tuple[list[dict[str, Any]], list[str]]:
    requests = [
        {"config": {"model_type": kind, "architectures": [name], "num_hidden_layers": 2}}
        for kind, name in TYPES.items()
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(ROOT), how],
        input=json.dumps(requests).encode(),
        capture_output=True,
        check=True,
        timeout=500,
    )
    answers, real = json.loads(done.stdout)
    return answers, real


@pytest.mark.long
@pytest.mark.slow
def test_they_change_no_fact() -> None:
    with_them, real = _answers("stand-ins")
    assert real == []
    without, real = _answers("whole")
    assert "torch._dynamo" in real
    for kind, one, other in zip(TYPES, with_them, without, strict=True):
        assert other["status"] == "built", kind
        if kind in LEFT_TO_THE_SECOND:
            assert LEFT_TO_THE_SECOND[kind] in one["reason"]
        else:
            assert one == other, kind


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize("status", ["refused", "unknown"])
def test_a_model_that_is_not_built_with_them_is_tried_without(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def child(arguments: list[str], request: bytes, time_limit: float) -> bytes:
        asked.append(json.loads(request)["whole"])
        return json.dumps({"status": status if len(asked) == 1 else "refused", "reason": f"try {len(asked)}"}).encode()

    monkeypatch.setattr(architecture, "_run", child)
    with pytest.raises(InvalidBaseError, match="try 2"):
        make_table(LLAMA, {"a.weight": ("F32", (2, 2))})
    assert asked == [False, True]


CALLED = """
import sys
sys.path.append(sys.argv[1])
from registry.tensors.table import stand_ins
stand_ins.install()
from scipy.optimize import linear_sum_assignment
import torch._dynamo
made = torch._dynamo.anything(1)
assert made
assert torch._dynamo.disable(print, recursive=False) is print
assert torch._dynamo.disable(recursive=False)(print) is print
assert not isinstance(print, linear_sum_assignment)
stand_ins.models_are_built()
assert torch._dynamo.disable(print) is print
wrong = 0
calls = lambda: linear_sum_assignment([1]), lambda: bool(made), lambda: bool(linear_sum_assignment), lambda: made(1)
for call in calls:
    try:
        call()
    except (RuntimeError, TypeError) as error:
        assert "is not loaded here" in str(error)
        wrong += 1
print(wrong)
"""


@pytest.mark.slow
def test_nothing_is_worked_out_by_one() -> None:
    command = [sys.executable, "-c", CALLED, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


ELSEWHERE = """
import json, os, sys
sys.path.append(sys.argv[1])
from registry.tensors.table import architecture_child, stand_ins
stand_ins.install()
import transformers
import torch.export
assert transformers.__version__
assert not hasattr(transformers, "LlamaForCausalLM")
configs = {"architectures": ["LlamaForCausalLM"]}, {"architectures": ["GPT2LMHeadModel"], "model_type": "llama"}
answers = [architecture_child.answer({"config": config, "tensors": {}}) for config in configs]
os.write(1, json.dumps([answer.get("reason") for answer in answers]).encode())
os._exit(0)
"""


@pytest.mark.slow
def test_a_class_that_is_not_beside_its_config_is_left_to_the_second_child() -> None:
    """Only the whole of transformers knows where a class is, or that there is none."""
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == ["its class is found only where all of transformers is imported"] * 2
