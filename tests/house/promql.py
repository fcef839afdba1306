"""Evaluates alert rules over samples of one moment: what an expression of an alert gives, without a Prometheus.

As much of PromQL as such rules use: selectors, comparisons, arithmetic with numbers, `and`, `or` and `unless` with
`on`, `max`, `min`, `sum` and `count` by labels, `label_replace`, `time` and `absent`. Anything else is refused, ranges
too. Held against Prometheus 2.53 by hand, which gave the same for every case of `test_kubernetes`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser as promql

Labels = Mapping[str, str]
ARITHMETIC: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv
}  # fmt: skip
COMPARED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne
}  # fmt: skip
AGGREGATED: Final[Mapping[str, Callable[[list[float]], float]]] = {"max": max, "min": min, "sum": sum, "count": len}


@dataclass(frozen=True)
class Sample:
    """A value under a name and labels."""

    labels: Labels
    value: float
    name: str = ""


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(labels, value, name)


def evaluate(expression: str, samples: Iterable[Sample], now: float = 0.0) -> list[Sample]:
    """What an expression gives for samples, at a time in seconds since 1970."""
    found = _Evaluation(tuple(samples), now).of(promql.parse(expression))
    assert isinstance(found, list), f"{expression} is a number"
    return found


@dataclass(frozen=True)
class _Evaluation:
    samples: tuple[Sample, ...]
    now: float

    def of(self, expression: Any) -> Any:
        match type(expression).__name__:
            case "NumberLiteral" | "StringLiteral":
                return expression.val
            case "ParenExpr":
                return self.of(expression.expr)
            case "VectorSelector":
                return [one for one in self.samples if _selected(one, expression)]
            case "AggregateExpr":
                return self._aggregated(expression)
            case "Call":
                return self._called(expression)
            case "BinaryExpr":
                return self._binary(expression)
        raise NotImplementedError(str(expression))

    def _aggregated(self, expression: Any) -> list[Sample]:
        labels = [] if expression.modifier is None else expression.modifier.labels
        assert expression.modifier is None or str(expression.modifier.type).endswith(".By"), expression
        groups: dict[tuple[str, ...], list[float]] = {}
        for one in self.of(expression.expr):
            groups.setdefault(tuple(one.labels.get(name, "") for name in labels), []).append(one.value)
        reduce = AGGREGATED[str(expression.op)]
        return [Sample(_kept(dict(zip(labels, key, strict=True))), reduce(values)) for key, values in groups.items()]

    def _called(self, expression: Any) -> Any:
        name, arguments = str(expression.func.name), [self.of(one) for one in expression.args]
        if name == "time":
            return self.now
        if name == "absent":
            return [] if arguments[0] else [Sample({}, 1.0)]
        if name == "label_replace":
            vector, target, replacement, source, pattern = arguments
            return [_replaced(one, target, replacement, source, pattern) for one in vector]
        raise NotImplementedError(name)

    def _binary(self, expression: Any) -> Any:
        left, right, kind = self.of(expression.lhs), self.of(expression.rhs), str(expression.op)
        matching = None if expression.modifier is None else expression.modifier.matching
        assert matching is None or str(matching.type).endswith(".Include"), expression
        if isinstance(left, list) and isinstance(right, list):
            return _matched(kind, left, right, None if matching is None else matching.labels)
        if kind in COMPARED:
            assert isinstance(left, list), f"{expression} compares numbers"
            return [one for one in left if COMPARED[kind](one.value, right)]
        made = ARITHMETIC[kind]
        if isinstance(left, list):
            return [Sample(one.labels, made(one.value, right)) for one in left]
        if isinstance(right, list):
            return [Sample(one.labels, made(left, one.value)) for one in right]
        return made(left, right)


def _selected(one: Sample, selector: Any) -> bool:
    assert selector.offset is None
    assert selector.at is None
    if one.name != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        kind, value = str(matcher.op).rpartition(".")[2], one.labels.get(matcher.name, "")
        equal = re.fullmatch(matcher.value, value) is not None if kind in {"Re", "NotRe"} else value == matcher.value
        if equal is kind.startswith("Not"):
            return False
    return True


def _matched(kind: str, left: list[Sample], right: list[Sample], on: list[str] | None) -> list[Sample]:
    def key(one: Sample) -> tuple[tuple[str, str], ...]:
        return tuple(
            sorted(_kept(one.labels if on is None else {name: one.labels.get(name, "") for name in on}).items())
        )

    there = {key(one): one for one in right}
    if kind == "and":
        return [one for one in left if key(one) in there]
    if kind == "unless":
        return [one for one in left if key(one) not in there]
    if kind == "or":
        before = {key(one) for one in left}
        return [*left, *(one for one in right if key(one) not in before)]
    assert len(there) == len(right), "many match one"
    compared = COMPARED[kind]
    return [one for one in left if key(one) in there and compared(one.value, there[key(one)].value)]


def _replaced(one: Sample, target: str, replacement: str, source: str, pattern: str) -> Sample:
    found = re.fullmatch(pattern, one.labels.get(source, ""))
    if found is None:
        return one
    return Sample(_kept({**one.labels, target: found.expand(replacement.replace("$", "\\"))}), one.value, one.name)


def _kept(labels: Labels) -> Labels:
    return {name: value for name, value in labels.items() if value}
