"""The reasons of answers that are kept, which have codes alone, in words."""

from __future__ import annotations

from typing import get_args

from registry.engines.checking import in_short
from registry.engines.rules import Part
from registry.schemas.artifacts import EngineAnswer


def answer(*reasons: str, rank: int | None = 24, limit: int | None = 16) -> EngineAnswer:
    return EngineAnswer(engine="vllm", version="1", loads=not reasons, reasons=reasons, rank=rank, max_lora_rank=limit)


def test_each_code_has_words_once() -> None:
    codes = ("not_composable", *get_args(Part))
    told = in_short(answer(*codes, *codes))
    assert len(told) == len(codes) == len(set(told))
    assert not set(told) & set(codes)
    assert in_short(answer()) == []
    assert in_short(answer("of_a_later_version")) == ["of_a_later_version"]


def test_a_rank_that_is_too_large_is_told_with_the_limit() -> None:
    told = in_short(answer("dora", "rank"))
    assert told == ["its rank is 24, above 16, unless the engine is started with more", "it has DoRA"]
    assert in_short(answer("rank", limit=None)) == ["its rank is above what the engine takes"]
