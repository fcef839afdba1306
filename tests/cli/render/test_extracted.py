"""What was made of a full model, on a terminal and by the command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from registry.cli.render.results import preview, published
from registry.cli.render.screen import lines_of
from registry.schemas.artifacts import ExtractedModule, Extraction
from registry.schemas.frames import Block
from registry.schemas.sheets import shown
from tests.cli.canned import PREVIEW, PUBLISHED, SHOWN
from tests.cli.conftest import Run
from tests.kit import plain_base
from tests.kit.full_models import full_model

REPORT = Extraction(
    parent="sha256:" + "0" * 64,
    rank=8,
    error=0.125,
    modules=(
        ExtractedModule(module="body.one", rank=8, energy=4.0, error=0.1),
        ExtractedModule(module="body.two", rank=8, energy=1.0, error=0.25),
    ),
    values=("body.norm.weight",),
    unchanged=3,
)


def _text(blocks: Iterable[Block]) -> str:
    return " ".join(" ".join("".join(span.text for span in line) for line in lines_of(blocks, 100)).split())


def test_the_error_is_told_where_it_is_published_planned_and_shown() -> None:
    told = {"extracted": REPORT}
    for blocks in (
        published(PUBLISHED.model_copy(update=told)),
        preview(PREVIEW.model_copy(update=told)),
        shown(SHOWN.model_copy(update=told)),
    ):
        text = _text(blocks)
        assert "extracted from a full model: error 12.5 % of what it changed, 2 pairs, at most 25 % (body.two)" in text
        assert "and 1 value kept whole" in text
    assert "extracted" not in _text(published(PUBLISHED))


def test_the_command_publishes_a_full_model(run: Run, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base")
    full_model(tmp_path / "full", base.folder)
    place = ["--url", str(tmp_path / "registry")]
    assert run("base", "add", "net", str(base.folder), *place).code == 0
    args = ["publish", "--full", str(tmp_path / "full"), "net/sft", *place]
    planned = run(*args, "--rank", "2", "--dry-run", "--json")
    ended = run(*args, "--rank", "2", "--json")
    assert (planned.code, ended.code) == (0, 0)
    assert json.loads(planned.out)["extracted"] == json.loads(ended.out)["extracted"]
    assert [one["rank"] for one in json.loads(ended.out)["extracted"]["modules"]] == [2, 2, 2]
    assert run("publish", str(tmp_path / "full"), "net/sft", "--rank", "2", *place).code == 2
