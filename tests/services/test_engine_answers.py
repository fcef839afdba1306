"""What engines answer is kept with the revision for `show`: by the rules of this version, gone with the revision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.catalogue.database.database import Database
from registry.errors import UnavailableError
from registry.operations.registry import Registry
from registry.schemas.artifacts import EngineAnswer
from registry.services import browse
from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.registries import opened


@pytest.fixture(params=["embedded", "http"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        base = llama_base(tmp_path / "base")
        kept.add_base("llama", base.folder)
        kept.publish(write_recipe(tmp_path / "odd", base, Recipe(("q_proj",), dora=True, r=24)), "llama/odd")
        yield kept


def answers(registry: Registry, ref: str = "llama/odd") -> dict[str, EngineAnswer]:
    return {one.engine: one for one in registry.show(ref).engines}


def test_show_has_what_was_asked_by_the_defaults(registry: Registry) -> None:
    by_itself = not isinstance(registry, LocalRegistry)  # a service asks all engines, at some time after a publish
    assert by_itself or answers(registry) == {}
    registry.check("llama/odd", engine="vllm", max_lora_rank=32)  # by another limit
    assert by_itself or answers(registry) == {}
    found = {name: registry.check("llama/odd", engine=name) for name in ("vllm", "peft")}
    kept = answers(registry)
    assert [name for name in kept if name in found or not by_itself] == ["vllm", "peft"]
    for name, check in found.items():
        reasons = tuple(reason.code for reason in check.reasons)
        assert kept[name] == EngineAnswer(
            engine=check.engine, version=check.version, loads=check.loads, reasons=reasons, rank=check.rank,
            max_lora_rank=check.max_lora_rank,
        )  # fmt: skip
    assert (kept["vllm"].reasons, kept["peft"].loads) == (("dora",), True)
    registry.rename("llama/odd", "even")
    renamed = answers(registry, "llama/even")
    assert {name: renamed[name] for name in kept} == kept


def test_other_rules_and_what_can_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = llama_base(tmp_path / "base")
    with LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache") as opened:
        opened.add_base("llama", base.folder)
        opened.publish(write_recipe(tmp_path / "a", base, Recipe(("q_proj",))), "llama/a")
        with monkeypatch.context() as patch:
            error = UnavailableError("The database can't be written.", code="read_only")
            patch.setattr(Database, "change", lambda *_, **__: (_ for _ in ()).throw(error))
            assert opened.check("llama/a", engine="vllm").loads
        assert answers(opened, "llama/a") == {}
        opened.check("llama/a", engine="vllm")
        assert answers(opened, "llama/a")["vllm"].loads
        monkeypatch.setitem(browse.RULES, "vllm", "sha256:" + "0" * 64)  # type: ignore[attr-defined]
        assert answers(opened, "llama/a") == {}
