"""How all schemas are: immutable, unknown fields refused, in Python shown on one line by the fields that say something.

And the words that options take, and forms of values: what every database can keep, and names that can be typed.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
)

from registry.digest import is_digest
from registry.errors import UsageError
from registry.figures import counted, moment, short_digest

MAX_TEXT: Final = 10_000  # characters
NAME_RULE: Final = "at most 64 of A-Z a-z 0-9 . _ : / @ + - are expected, beginning with a letter or digit"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}")


def is_plain(text: str) -> bool:
    """Whether databases take a text: no NUL (PostgreSQL), nothing that has no UTF-8 form."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def check_text(what: str, text: str) -> str:
    """Return ``text`` if it can be stored: not too long, and plain.

    Raises:
        UsageError: with what is wrong.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"{what} has {len(text)} characters: at most {MAX_TEXT} are expected.")
    if not is_plain(text):
        raise UsageError(f"{what} contains a NUL or an invalid character: plain text is expected.")
    return text


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can name a metric or an annotation.

    Raises:
        UsageError: ``bad_name``, with the rule.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r} is not allowed: {NAME_RULE}.", code="bad_name")
    return name


def check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by name, with values that are finite.

    Raises:
        UsageError: naming the metric.
    """
    checked = {}
    for name, value in metrics.items():
        check_name("Metric name", name)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"Metric {name} is {value!r}: a finite number is expected.")
        checked[name] = number
    return checked


def check_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Annotations by key.

    Raises:
        UsageError: naming the annotation.
    """
    for key, value in annotations.items():
        check_name("Annotation key", key)
        check_text(f"Annotation {key}", value)
    return dict(annotations)


_MOST: Final = 240  # characters
_ITEMS: Final = 3  # of a list, if they are texts
_TEXT: Final = 60  # characters


def one_line(model: BaseModel) -> str:
    """``Tagged(path='llama/support', tag='prod', ...)``, without what is empty, a default, or not to be shown."""
    words: list[str] = []
    room = _MOST - len(type(model).__name__)
    for name, text in _fields(model):
        room -= len(name) + len(text)
        if room < 0 and words:
            words.append("...")
            break
        words.append(f"{name}={text}")
    return f"{type(model).__name__}({', '.join(words)})"


def _fields(model: BaseModel) -> Iterator[tuple[str, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        empty = value is None or (isinstance(value, (str, Sequence, Mapping)) and not value)
        if field.repr and not empty and not (not field.is_required() and value == field.default):
            yield name, _in_words(value)


def _in_words(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime):
        return f"'{moment(value)} UTC'"
    if isinstance(value, Mapping):
        return f"({counted(len(value), 'entry', 'entries')})" if len(value) > _ITEMS else repr(dict(value))
    if isinstance(value, Sequence):
        return _list(value)
    return repr(value)


def _text(value: str) -> str:
    if is_digest(value):
        return f"'sha256:{short_digest(value)}...'"
    return repr(value if len(value) <= _TEXT else f"{value[:_TEXT]}...")


def _list(value: Sequence[object]) -> str:
    texts = [_text(item) for item in value if isinstance(item, str)]
    if len(value) > _ITEMS or len(texts) < len(value):
        return f"({counted(len(value), 'item')})"
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


Dtype = Literal["bf16", "fp16", "fp32"]
WrittenDtype = Literal["bf16", "fp16", "fp32", "keep", "fp8"]
"""What weights are written in. Of a quantised base model ``keep``: all that a path does not change as it is stored;
``fp8``: what it changes on the grid of the stored codes, too."""
EngineName = Literal[
    "vllm", "sglang", "peft", "transformers", "diffusers", "comfyui", "forge", "vllm-omni", "llama.cpp", "mlx", "ollama"
]
Layout = Literal["diffusers", "comfyui", "vllm-omni", "gguf", "mlx"]
"""The names and files of a composed LoRA, by who reads them; ``comfyui`` is Forge's, too, ``gguf`` llama.cpp's."""
BaseQuantization = Literal["fp8", "mxfp4", "bitsandbytes"]
"""How a base model is quantised on which an engine serves adapters as they are."""
MeasuredRows = Literal["sample", "full"]
Onto = Literal["trained"]
"""What a path is merged onto, if it is not the base model as it is stored: that which it was trained on, in 4 bits."""


class Schema(BaseModel):
    """Base of all schemas: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, serialize_by_alias=True)

    def __repr__(self) -> str:
        return one_line(self)

    def __str__(self) -> str:
        return repr(self)

    def __dir__(self) -> list[str]:
        """Fields, and what users call, for the completion of shells: not all that pydantic keeps for itself."""
        ours = {name for name in super().__dir__() if not name.startswith("_")} - _OF_PYDANTIC
        return [*ours, "model_dump", "model_dump_json"]


_OF_PYDANTIC = frozenset(dir(BaseModel))


class LeftOut(Schema):
    """A file of the given folder that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Param:
    """Bounds of a field that travels as a query parameter; calls in Python are not held to them."""

    min_length: int | None = None
    max_length: int | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    pattern: str | None = None
    description: str | None = None
    examples: tuple[str, ...] | None = None
    help: str | None = None
    """Of the option of a command. Default: the description."""
    metavar: str | None = None
    """What the help of a command calls its value. Default: by its type and name."""
    option: str | None = None
    """Of a command, if it is not called as the field is."""
    repeated: bool = False
    """Whether it may be given several times, which are one text with commas between them."""


def _decoded(value: object) -> object:
    """Text from JSON as the bytes that it stands for; bytes, given in Python, are themselves."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes: as they are in Python, base64 in JSON."""


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time that a client says: with its zone, and in UTC from then on."""
