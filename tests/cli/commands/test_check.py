"""Whether an engine loads a path, from the command line: yes, no with every reason, and what would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from registry.schemas.artifacts import EngineCheck
from tests.cli.conftest import Run
from tests.kit import llama_base
from tests.kit.recipes import Recipe, write_recipe


@pytest.fixture(scope="module")
def with_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("with-adapters")
    base = llama_base(root / "base")
    recipes = {
        "plain": Recipe(("q_proj", "v_proj"), r=9, rank_pattern={"v_proj": 2}),
        "odd": Recipe(("q_proj",), dora=True, replaced=("lm_head",), r=9),
    }
    with registry.connect(root / "registry") as opened:
        opened.add_base("llama", base.folder)
        for name, recipe in recipes.items():
            opened.publish(write_recipe(root / name, base, recipe), f"llama/{name}")
    return root / "registry"


@pytest.fixture
def at(with_adapters: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    monkeypatch.setenv("REGISTRY_URL", str(with_adapters))
    monkeypatch.chdir(tmp_path)
    return run


def test_yes_ends_with_0_and_what_is_printed_is_a_command_that_does(at: Run) -> None:
    ended = at("check", "llama/plain", "--engine", "vllm")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()]
    assert lines[:4] == [["llama/plain@1"], ["engine", "vllm 0.33.0"], ["loads", "yes"], ["rank", "9 of at most 16"]]
    assert lines[4] == ["would", "do  registry fetch llama/plain@1 --for vllm"]
    assert at("fetch", "llama/plain@1", "--for", "vllm", "-o", "out").code == 0
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (9, {})


def test_no_ends_with_4_and_names_every_reason(at: Run) -> None:
    ended = at("check", "llama/odd", "--engine", "vllm", "--max-lora-rank", "8")
    assert ended.code == 4
    codes = [line.split()[0] for line in ended.out.splitlines()]
    assert {"rank", "dora", "replaced"} <= set(codes)
    assert "vllm/lora/peft_helper.py" in ended.out
    assert "instead: `registry fetch llama/odd@1 --as merged`" in ended.err
    ended = at("--json", "check", "llama/odd", "--engine", "vllm", "--max-lora-rank", "8")
    found = EngineCheck.model_validate_json(ended.out)
    assert [reason.code for reason in found.reasons] == ["rank", "dora", "replaced"]
    assert found.reasons[2].modules == ("lm_head",)
    assert json.loads(ended.err)["code"] == "engine_limits"


def test_what_an_engine_can_not_load_is_not_fetched_for_it(at: Run) -> None:
    ended = at("fetch", "llama/odd", "--for", "sglang", "-o", "out")
    assert ended.code == 4
    assert "DoRA" in ended.err
    assert not Path("out").exists()
    ended = at("fetch", "llama/plain", "--for", "vllm", "--max-lora-rank", "8", "-o", "out")
    assert ended.code == 4
    assert "rank 9" in ended.err
    truncating = ("--max-lora-rank", "8", "--max-error", "0.9", "--report", "report.json")
    ended = at("fetch", "llama/plain", "--for", "vllm", "-o", "out", *truncating)
    assert ended.code == 0
    assert json.loads(Path("report.json").read_text())["rank"] == 8


def test_a_report_of_nothing_is_said_and_not_written(at: Run) -> None:
    ended = at("fetch", "llama/plain", "--for", "vllm", "--max-error", "0.9", "-o", "out", "--report", "report.json")
    assert ended.code == 0
    assert "nothing was truncated" in ended.err
    assert not Path("report.json").exists()
