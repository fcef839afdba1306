"""``registry check --engine vllm`` against vLLM's own validation and loader, for adapters of every variant.

``judged.json`` is what vLLM 0.33.0 said (its wheel on a CPU; nothing of it computes): ``VLLM_PYTHON=... python -m
tests.vllm.test_judged`` writes it again, and the slow test compares it with the vLLM that is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from registry.engines.rules import ENGINES, Part
from registry.errors import InvalidAdapterError
from registry.schemas.artifacts import EngineCheck
from tests.kit.recipes import write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

JUDGED: Final = Path(__file__).parent / "judged.json"
JUDGING: Final = Path(__file__).parent / "judging.py"
SAID: Final[dict[str, str]] = json.loads(JUDGED.read_text())["said"] if JUDGED.exists() else {}
PYTHON: Final = os.environ.get("VLLM_PYTHON", "")
KINDS: Final = ("llama", "opt", "gpt2", "mixtral", "gpt_oss")
LIMITS: Final = (1, 8)
CASES: Final = [(kind, name, limit) for kind in KINDS for name in VARIANTS[kind] for limit in LIMITS]


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


def judge(shelf: Shelf, references: dict[tuple[str, str], str]) -> dict[str, str]:
    """What the vLLM that is there says to every case."""
    folders = {key: shelf.composed(reference, uniform=True) for key, reference in references.items()}
    cases = [(f"{kind}/{name}/{limit}", str(folders[kind, name]), kind, limit) for kind, name, limit in CASES]
    command = [PYTHON, str(JUDGING)]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def references(shelf: Shelf) -> dict[tuple[str, str], str]:
    return {(kind, name): published(shelf, kind, name) for kind in KINDS for name in VARIANTS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_check_says_what_vllm_says(shelf: Shelf, references: dict[tuple[str, str], str], kind: str) -> None:
    for name in VARIANTS[kind]:
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
    rules = {other: rule for other, rule in row.rules.items() if other != part}
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
def test_vllm_still_says_so(shelf: Shelf, references: dict[tuple[str, str], str]) -> None:
    assert {name: one == "" for name, one in judge(shelf, references).items()} == {
        name: one == "" for name, one in SAID.items()
    }


def write() -> None:
    """Write what the vLLM that is there says, without the names of folders."""
    with tempfile.TemporaryDirectory() as room:
        shelf = Shelf(Path(room))
        references = {(kind, name): published(shelf, kind, name) for kind in KINDS for name in VARIANTS[kind]}
        said = {name: one.replace(room, "")[:120] for name, one in sorted(judge(shelf, references).items())}
        shelf.close()
    JUDGED.write_text(json.dumps({"of": f"vllm {ENGINES['vllm'].version}", "said": said}, indent=1) + "\n")


if __name__ == "__main__":
    write()
