"""What routers are asked, and what is made of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool.routing.route import route


def test_a_function_is_asked_about_each_example() -> None:
    asked: list[Any] = []

    def router(example: Any) -> str | None:
        asked.append(example)
        return None if example == "b" else f"llama/{example}@prod"

    assert route(["a", "b"], router) == ["llama/a@prod", None]  # tags stay: `use` resolves them
    assert asked == ["a", "b"]
    assert route([], router) == []


def test_an_encoded_batch_is_given_row_by_row() -> None:
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4], [5, 6]]), "language": ["fr", "en", "fr"]}

    def router(row: Any) -> str | None:
        assert row["input_ids"].shape == (2,)
        return "llama/fr" if row["language"] == "fr" and int(row["input_ids"][0]) > 1 else None

    assert route(batch, router) == [None, None, "llama/fr"]


class _All:
    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def route(self, rows: Any) -> Sequence[Any]:
        self.asked.append(rows)
        return self.answers


def test_what_has_a_method_route_is_asked_once_about_all() -> None:
    router = _All(("llama/a", None))
    rows = ["x", "y"]
    assert route(rows, router) == ["llama/a", None]
    assert router.asked == [rows]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["llama/a"], "1 references for 2 rows"),
        (["llama/a", 3], "3 for row 1"),
        (["llama/a", ["llama/b"]], "for row 1"),
        (["llama/a", "Llama/B"], "'Llama'"),
        (["llama/a", ""], "''"),
    ],
)
def test_other_answers_are_refused(answers: Sequence[Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        route(["x", "y"], _All(answers))


@pytest.mark.parametrize(
    "rows",
    ["one text", b"bytes", {}, {"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": torch.tensor(1)}, {"a": 1}, None, 3],
)
def test_what_has_no_rows_is_refused(rows: Any) -> None:
    with pytest.raises(UsageError, match=r"encoded batch"):
        route(rows, lambda _: None)
