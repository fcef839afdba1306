"""``registry check --engine vllm`` against vLLM's own validation and loader, for adapters of every variant.

``judged.json`` is what vLLM 0.33.0 said (its wheel on a CPU; nothing of it computes): ``VLLM_PYTHON=... python -m
tests.vllm.test_judged`` writes it again, and the slow test compares it with the vLLM that is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from registry.engines.rules import ENGINES, Part
from registry.errors import InvalidAdapterError
from registry.schemas.artifacts import EngineCheck
from tests.kit import Base, llama_base
from tests.kit.peers import wrap
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

JUDGED: Final = Path(__file__).parent / "judged.json"
JUDGING: Final = Path(__file__).parent / "judging.py"
SAID: Final[dict[str, str]] = json.loads(JUDGED.read_text())["said"] if JUDGED.exists() else {}
PYTHON: Final = os.environ.get("VLLM_PYTHON", "")
KINDS: Final = ("llama", "opt", "gpt2", "mixtral", "gpt_oss")
LIMITS: Final = (1, 8)
NAMES: Final = {kind: [name for name, one in VARIANTS[kind].items() if not one.product] for kind in KINDS}
"""Without LoHa and LoKr, which reach an engine as the plain LoRA that they equal."""
CASES: Final = [(kind, name, limit) for kind in KINDS for name in NAMES[kind] for limit in LIMITS]
DRAWN: Final = 60
HEADS: Final = {"llama_score": "LlamaConfig", "bert_head": "BertConfig", "roberta_head": "RobertaConfig"}
"""Kinds of classifiers, and the configuration of transformers that makes one."""
ON_HEADS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"target_modules": ["q_proj", "v_proj", "query", "value"]},
    "saved": {"target_modules": ["q_proj", "query"], "modules_to_save": ["score", "classifier"]},
    "adapted": {"target_modules": ["v_proj", "value", "score", "classifier", "classifier.dense"]},
    "by name": {"target_modules": ["v_proj", "value"], "target_parameters": ["query.weight", "q_proj.weight"]},
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    yield made
    made.close()


def published(shelf: Shelf, kind: str, name: str) -> str:
    """The reference of a variant."""
    base = shelf.base(kind.replace("_", "-"), MAKERS[kind])
    recipe = dataclasses.replace(VARIANTS[kind][name], seed=5, copies=False)
    return shelf.path(kind.replace("_", "-"), write_recipes(shelf.folder(), base, [recipe]))


def drawn(seed: int) -> tuple[str, Recipe, int]:
    """A kind, an adapter of it with at most one thing that is special, and a limit."""
    chosen = random.Random(seed)
    kind = chosen.choice(("llama", "mistral", "opt", "mixtral", "gpt_oss"))
    names = [
        "q_proj",
        "k_proj",
        "v_proj",
        *{"llama": ["o_proj", "down_proj"], "mistral": ["up_proj"], "opt": ["fc1"]}.get(kind, []),
    ]
    targets = tuple(chosen.sample(names, chosen.randint(1, 3)))
    recipe = Recipe(targets, r=chosen.randint(1, 9), rslora=chosen.random() < 0.3, seed=seed)
    special = chosen.choice(
        ("", "", "ranks", "dora", "bias", "saved", "tokens", "embedding", "head", "named", "named", "experts")
    )
    features: dict[str, dict[str, Any]] = {
        "ranks": {"rank_pattern": {targets[0]: chosen.randint(1, 12)}},
        "dora": {"dora": True},
        "bias": {"bias": "all"} if kind in ("opt", "gpt_oss") else {},
        "saved": {"replaced": ("embed_tokens",)},
        "tokens": {"tokens": {"embed_tokens": (1, 5)}},
        "embedding": {"targets": (*targets, "embed_tokens")},
        "head": {"targets": (*targets, "lm_head")} if kind != "opt" else {},
        "named": {"config": {"target_modules": list(targets[1:]), "target_parameters": [f"{targets[0]}.weight"]}},
        "experts": {"parameters": ("experts.gate_up_proj", "experts.down_proj")}
        if kind in ("mixtral", "gpt_oss")
        else {},
    }
    return kind, dataclasses.replace(recipe, **features.get(special, {})), chosen.choice((1, 8, 16))


def mistral(folder: Path) -> Base:
    """A llama by the name of Mistral, whose class in vLLM adapts neither embeddings nor heads."""
    base = llama_base(folder)
    config = json.loads((folder / "config.json").read_text())
    told = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    (folder / "config.json").write_text(json.dumps(config | told))
    return base


def drawn_cases(shelf: Shelf) -> dict[str, tuple[str, str, int]]:
    """The drawn adapters, published: by number the reference, the kind and the limit."""
    found = {}
    for seed in range(DRAWN):
        kind, recipe, limit = drawn(seed)
        name = kind.replace("_", "-")
        base = shelf.base(name, mistral if kind == "mistral" else MAKERS[kind])
        found[f"drawn/{seed}"] = shelf.path(name, write_recipes(shelf.folder(), base, [recipe])), kind, limit
    return found


def classifier(kind: str, folder: Path) -> Base:
    """A classifier of three labels over 16 features, as transformers writes it."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = getattr(transformers, HEADS[kind])(**sizes, vocab_size=40, num_labels=3, pad_token_id=0)
    torch.manual_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return Base(folder, {}, None)


def head_cases(shelf: Shelf, root: Path) -> dict[str, tuple[str, str, int]]:
    """Adapters of classifiers that PEFT made, published: the reference, the kind and the limit."""
    import transformers

    found = {}
    for kind in HEADS:
        base = shelf.base(kind.replace("_", "-"), partial(classifier, kind))
        for name, fields in ON_HEADS.items():
            folder = root / kind / name
            model = transformers.AutoModelForSequenceClassification.from_pretrained(base.folder)
            wrap(folder, model, task_type="SEQ_CLS", r=2, **fields)
            found[f"{kind}/{name}"] = shelf.path(kind.replace("_", "-"), [folder]), kind, 8
    return found


def judge(
    shelf: Shelf, references: dict[tuple[str, str], str], more: dict[str, tuple[str, str, int]]
) -> dict[str, str]:
    """What the vLLM that is there says to every case, and to ``more``."""
    folders = {key: shelf.composed(reference, uniform=True) for key, reference in references.items()}
    cases = [(f"{kind}/{name}/{limit}", str(folders[kind, name]), kind, limit) for kind, name, limit in CASES]
    cases += [(name, str(shelf.composed(ref, uniform=True)), kind, limit) for name, (ref, kind, limit) in more.items()]
    command = [PYTHON, str(JUDGING)]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def references(shelf: Shelf) -> dict[tuple[str, str], str]:
    return {(kind, name): published(shelf, kind, name) for kind in KINDS for name in NAMES[kind]}


@pytest.fixture(scope="module")
def more(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, int]]:
    return drawn_cases(shelf) | head_cases(shelf, tmp_path_factory.mktemp("heads"))


@pytest.mark.long
def test_check_says_it_of_drawn_adapters_and_of_heads(shelf: Shelf, more: dict[str, tuple[str, str, int]]) -> None:
    wrong = {}
    for name, (reference, _, limit) in more.items():
        found = shelf.registry.check(reference, engine="vllm", max_lora_rank=limit)
        if found.loads != (SAID[name] == ""):
            wrong[name] = (SAID[name], found.reasons)
        _same_reasons(found, SAID[name])
    assert not wrong
    assert {True, False} == {SAID[name] == "" for name in more}


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_what_vllm_says(shelf: Shelf, references: dict[tuple[str, str], str], kind: str) -> None:
    for name in NAMES[kind]:
        for limit in LIMITS if kind in ("llama", "opt") else LIMITS[-1:]:
            found = shelf.registry.check(references[kind, name], engine="vllm", max_lora_rank=limit)
            said = SAID[f"{kind}/{name}/{limit}"]
            assert found.loads == (said == ""), (kind, name, limit, said, found.reasons)
            _same_reasons(found, said)


def test_what_vllm_said_was_of_the_version_of_the_rules() -> None:
    assert json.loads(JUDGED.read_text())["of"] == f"vllm {ENGINES['vllm'].version}"
    assert {True, False} == {said == "" for said in SAID.values()}


def _same_reasons(found: EngineCheck, said: str) -> None:
    """Every reason that vLLM gives is given; where it stops at the first, ours are more."""
    codes = {reason.code for reason in found.reasons}
    for words, code in (("greater than max", "rank"), ("DoRA", "dora"), ("modules_to_save", "replaced")):
        if words in said:
            assert code in codes
    if "bias is not" in said:
        assert "biases" in codes


NEEDS: Final[dict[Part, tuple[str, str]]] = {
    "dora": ("llama", "dora"),
    "replaced": ("llama", "new norm"),
    "biases": ("opt", "bias"),
    "tokens": ("llama", "tokens"),
    "experts": ("mixtral", "fused"),
    "half_experts": ("gpt_oss", "up only"),
    "embeddings": ("gpt2", "positions"),
    "conv1d": ("gpt2", "plain"),
}
"""Rules, and an adapter that vLLM refuses for that alone."""


@pytest.mark.parametrize("part", NEEDS)
def test_a_rule_that_is_missing_would_be_noticed(
    shelf: Shelf, references: dict[tuple[str, str], str], part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name = NEEDS[part]
    row = ENGINES["vllm"]
    unasked = {part, "model"} if kind == "gpt2" else {part}  # of which vLLM has no class that takes adapters
    rules = {other: rule for other, rule in row.rules.items() if other not in unasked}
    monkeypatch.setattr("registry.engines.checking.ENGINES", {"vllm": dataclasses.replace(row, rules=rules)})
    assert shelf.registry.check(references[kind, name], engine="vllm", max_lora_rank=8).loads
    assert SAID[f"{kind}/{name}/8"] != ""


def test_nothing_is_fetched_for_vllm_that_it_refuses(shelf: Shelf, references: dict[tuple[str, str], str]) -> None:
    out = shelf.folder()
    with pytest.raises(InvalidAdapterError) as caught:
        shelf.registry.fetch(references["llama", "dora"], out, engine="vllm")
    assert caught.value.code == "engine_limits"
    assert "--as merged" in str(caught.value)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vLLM; what it said was compared instead")
def test_vllm_still_says_so(
    shelf: Shelf, references: dict[tuple[str, str], str], more: dict[str, tuple[str, str, int]]
) -> None:
    assert {name: one == "" for name, one in judge(shelf, references, more).items()} == {
        name: one == "" for name, one in SAID.items()
    }


def write() -> None:
    """Write what the vLLM that is there says, without the names of folders."""
    with tempfile.TemporaryDirectory() as room:
        shelf = Shelf(Path(room))
        references = {(kind, name): published(shelf, kind, name) for kind in KINDS for name in NAMES[kind]}
        more = drawn_cases(shelf) | head_cases(shelf, Path(room, "heads"))
        said = {name: one.replace(room, "")[:120] for name, one in sorted(judge(shelf, references, more).items())}
        shelf.close()
    JUDGED.write_text(json.dumps({"of": f"vllm {ENGINES['vllm'].version}", "said": said}, indent=1) + "\n")


if __name__ == "__main__":
    write()
