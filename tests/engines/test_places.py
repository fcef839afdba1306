"""Checks of engines are the same in process and over HTTP, and show no token what it may not see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import InvalidAdapterError, NotFoundError, RetractedError
from registry.operations.registry import Registry
from tests.kit import llama_base
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.registries import ON_HTTP, opened


@pytest.fixture(params=["embedded", ON_HTTP])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry with llama/a@1, a DoRA, and llama/b@1 of rank 9."""
    with opened(request, tmp_path) as kept:
        base = llama_base(tmp_path / "base")
        kept.add_base("llama", base.folder)
        for name, recipe in {"a": Recipe(("q_proj",), dora=True), "b": Recipe(("q_proj", "v_proj"), r=9)}.items():
            kept.publish(write_recipes(tmp_path / name, base, [recipe])[0], f"llama/{name}")
        yield kept


def test_both_say_and_write_the_same(team: Registry, tmp_path: Path) -> None:
    found = team.check("llama/b", engine="vllm", max_lora_rank=8)
    assert repr(found) == "<EngineCheck llama/b@1: does not load (rank) in vllm 0.33.0>"
    assert found.reasons[0].source.startswith("vllm/config/lora.py")
    fetched = team.fetch("llama/b", tmp_path / "out", engine="vllm")
    with team.artifact("llama/b", uniform=True) as plain:
        assert fetched.rendering == plain.rendering
    with pytest.raises(InvalidAdapterError) as refused:
        team.fetch("llama/a", tmp_path / "other", engine="sglang")
    assert refused.value.code == "engine_limits"
    assert not (tmp_path / "other").exists()


def test_what_is_not_there_or_retracted_is_no_answer(team: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        team.check("llama/c", engine="vllm")
    assert team.check("llama/a", engine="peft").loads
    team.retract("llama/a@1", reason="bad data")
    with pytest.raises(RetractedError):
        team.check("llama/a@1", engine="peft")
    with pytest.raises(RetractedError):
        team.fetch("llama/a@1", tmp_path / "out", engine="peft")


def test_what_else_is_refused_is_refused_whatever_error_is_allowed(team: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="DoRA"):
        team.fetch("llama/a", tmp_path / "out", engine="vllm", max_lora_rank=1, max_error=0.9)
    assert not (tmp_path / "out").exists()
