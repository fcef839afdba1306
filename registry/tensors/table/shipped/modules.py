"""What a class of denoisers is made of: its modules, and the settings of its config that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from registry.tensors.table.targets import TargetKind

Shape = tuple[int, ...]

_LARGEST: Final = 1 << 31


class NotCoveredError(Exception):
    """A config asks for something that is not known here; the class itself, or the tensor names, have to say."""


@dataclass(frozen=True)
class Module:
    """A module with parameters of its own."""

    name: str
    kind: TargetKind
    parameters: tuple[tuple[str, Shape], ...]  # in the order of registration
    geometry: Mapping[str, Any] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()  # what its files hold beside them


def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Module:
    """An ``nn.Linear``, (out, in)."""
    return Module(name, TargetKind.LINEAR, _weight((rows, columns), bias=bias))


def conv(name: str, rows: int, columns: int, kernel: Shape) -> Module:
    """An ``nn.Conv2d`` or ``nn.Conv3d`` with a bias, without groups and dilation, padded with zeros."""
    geometry = {"kernel": list(kernel), "groups": 1, "dilation": [1] * len(kernel), "padding_mode": "zeros"}
    return Module(name, TargetKind.CONV, _weight((rows, columns, *kernel), bias=True), geometry)


def embedding(name: str, rows: int, columns: int) -> Module:
    """An ``nn.Embedding``."""
    return Module(name, TargetKind.EMBEDDING, _weight((rows, columns), bias=False))


def norm(name: str, size: int, *, bias: bool = False) -> Module:
    """A norm: vectors, which no pair of factors changes."""
    return Module(name, TargetKind.UNKNOWN, _weight((size,), bias=bias))


def own(name: str, key: str, shape: Shape) -> Module:
    """A parameter of a module that is no weight, as `registry.tensors.table.architecture_facts` sees it."""
    if len(shape) == 3:
        return Module(name, TargetKind.EXPERTS, ((key, shape),), {"transposed": False})
    return Module(name, TargetKind.UNKNOWN, ((key, shape),))


def _weight(shape: Shape, *, bias: bool) -> tuple[tuple[str, Shape], ...]:
    return (("weight", shape), ("bias", shape[:1])) if bias else (("weight", shape),)


def embedder(name: str, size: int, columns: int, *, bias: bool = True) -> Iterator[Module]:
    """A ``TimestepEmbedding`` or a projection of text: two linear modules with an activation between."""
    yield linear(f"{name}.linear_1", size, columns, bias=bias)
    yield linear(f"{name}.linear_2", size, size, bias=bias)


def feed_forward(name: str, size: int, inner: int, *, gated: bool = False, out: int | None = None) -> Iterator[Module]:
    """diffusers' ``FeedForward``; gated: value and gate are rows of one module."""
    yield linear(f"{name}.net.0.proj", 2 * inner if gated else inner, size)
    yield linear(f"{name}.net.2", out or size, inner)


class Settings:
    """A config as it is read: every key has to be known, and every value one that the rules hold for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        # keys that begin with an underline, and the quantisation, say how a model was saved
        self._given = {
            key: value
            for key, value in config.items()
            if not key.startswith("_") and key != "quantization_config"
        }  # fmt: skip
        self._left = set(self._given)

    def number(self, key: str, default: int) -> int:
        """A whole number from 1 on.

        Raises:
            NotCoveredError: it is something else.
        """
        return _number(self._read(key, default))

    def optional(self, key: str, default: int | None = None) -> int | None:
        """A whole number from 1 on, or None.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        return None if value is None else _number(value)

    def ratio(self, key: str, default: float) -> float:
        """A positive number.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
            raise NotCoveredError(key)
        return float(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        if not isinstance(value, bool):
            raise NotCoveredError(key)
        return value

    def places(self, key: str) -> frozenset[int]:
        """A list of whole numbers from 0 on, which may be empty.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, ())
        if not isinstance(value, list | tuple):
            raise NotCoveredError(key)
        return frozenset(_number(place, least=0) for place in value)

    def numbers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers from 1 on.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        if not isinstance(value, list | tuple) or not value:
            raise NotCoveredError(key)
        return tuple(map(_number, value))

    def each(self, key: str, default: int | tuple[int, ...], count: int) -> tuple[int, ...]:
        """``count`` whole numbers, of which the config may have one for all.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        found = tuple(map(_number, value)) if isinstance(value, list | tuple) else (_number(value),) * count
        if len(found) != count:
            raise NotCoveredError(key)
        return found

    def words(self, key: str, default: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
        """A list of words, all of which are known.

        Raises:
            NotCoveredError: it is something else.
        """
        value = self._read(key, default)
        if not isinstance(value, list | tuple) or not all(word in known for word in value):
            raise NotCoveredError(key)
        return tuple(value)

    def one_of(self, key: str, *known: Any) -> Any:
        """A value that is among the known ones, of which the first is the default.

        Raises:
            NotCoveredError: it is none of them.
        """
        value = self._read(key, known[0])
        if not any(type(value) is type(one) and value == one for one in known):
            raise NotCoveredError(key)
        return value

    def any_of(self, *keys: str) -> None:
        """Settings that no module depends on: they change what is computed, or how."""
        self._left -= set(keys)

    def finish(self) -> None:
        """Check that no setting is left.

        Raises:
            NotCoveredError: one is, of which it is not known here what it means.
        """
        if self._left:
            raise NotCoveredError(min(self._left))

    def _read(self, key: str, default: Any) -> Any:
        self._left.discard(key)
        return self._given.get(key, default)


def _number(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST:
        raise NotCoveredError("a number")
    return value
