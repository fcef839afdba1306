"""An independent strict reader of safetensors files: the judge of `registry.files.header`.

Written from the format's description, by hand and slow: no `json`, no code of the registry. It knows one grammar, JSON
(RFC 8259) with nothing left to taste, and refuses what two programs could read in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NoReturn

BITS: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
MOST_DIMENSIONS: Final = 16
LARGEST_DIMENSION: Final = 1 << 48
LONGEST_NAME: Final = 1024
_ESCAPES: Final = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}


Content = tuple[dict[str, tuple[str, tuple[int, ...], bytes]], dict[str, str]]
"""Tensors by name (dtype, shape, bytes) and the metadata."""


class RefusedError(Exception):
    """The file is not strictly valid."""


@dataclass(frozen=True)
class Fraction:
    """A number that is not written as an integer."""

    text: str


def read_strictly(file: bytes) -> Content:
    """What a file holds.

    Raises:
        RefusedError: the file is not strictly valid.
    """
    if len(file) < 8:
        _refuse("no length")
    end = 8 + sum(byte << (8 * place) for place, byte in enumerate(file[:8]))
    if end > len(file):
        _refuse("length beyond the file")
    head, body = file[8:end], file[end:]
    if head[:1] != b"{":
        _refuse("first byte")
    document = read_json(head)
    metadata = document.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        _refuse("metadata")
    spans = sorted((*_span(name, value), name) for name, value in document.items())
    at = 0
    tensors = {}
    for start, stop, name in spans:
        if start != at:
            _refuse("hole or overlap")
        at = stop
        tensors[name] = (document[name]["dtype"], tuple(document[name]["shape"]), body[start:stop])
    if at != len(body):
        _refuse("bytes left over")
    return tensors, metadata


def read_json(data: bytes) -> dict[str, Any]:
    """One JSON object.

    Raises:
        RefusedError: it is not strictly valid.
    """
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        _refuse("not UTF-8")
    return _Reader(text).document()


def _span(name: str, value: Any) -> tuple[int, int]:
    if len(name) > LONGEST_NAME or type(value) is not dict or sorted(value) != ["data_offsets", "dtype", "shape"]:
        _refuse("entry")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in BITS:
        _refuse("dtype")
    for numbers in (shape, offsets):
        if type(numbers) is not list or any(type(n) is not int or not 0 <= n <= LARGEST_DIMENSION for n in numbers):
            _refuse("numbers")
    if len(shape) > MOST_DIMENSIONS or len(offsets) != 2:
        _refuse("count of numbers")
    size, reach = BITS[dtype] // 8, BITS[dtype] // 8
    for length in shape:
        size *= length
        reach *= max(length, 1)
        if reach >= 1 << 63:
            _refuse("overflow")
    if offsets[1] - offsets[0] != size:
        _refuse("size")
    return offsets[0], offsets[1]


def _refuse(why: str) -> NoReturn:
    raise RefusedError(why)


class _Reader:
    """Recursive descent over one JSON text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def document(self) -> dict[str, Any]:
        found = self.value(0)
        self.space()
        if self.at != len(self.text) or type(found) is not dict:
            _refuse("not one object")
        return found

    def space(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t", "\n", "\r"):
            self.at += 1

    def peek(self) -> str:
        self.space()
        return self.text[self.at : self.at + 1]

    def take(self, token: str) -> None:
        if not self.text.startswith(token, self.at):
            _refuse(f"expected {token}")
        self.at += len(token)

    def value(self, depth: int) -> Any:
        if depth >= 64:
            _refuse("depth")
        first = self.peek()
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self.array(depth)
        if first == '"':
            return self.string()
        for word, meaning in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return meaning
        return self.number()

    def object(self, depth: int) -> dict[str, Any]:
        self.take("{")
        found: dict[str, Any] = {}
        if self.peek() == "}":
            self.take("}")
            return found
        while True:
            self.space()
            key = self.string()
            if key in found:
                _refuse("key twice")
            self.space()
            self.take(":")
            found[key] = self.value(depth + 1)
            if self.peek() == "}":
                self.take("}")
                return found
            self.take(",")

    def array(self, depth: int) -> list[Any]:
        self.take("[")
        found: list[Any] = []
        if self.peek() == "]":
            self.take("]")
            return found
        while True:
            found.append(self.value(depth + 1))
            if self.peek() == "]":
                self.take("]")
                return found
            self.take(",")

    def number(self) -> int | Fraction:
        start = self.at
        if self.text.startswith("-", self.at):
            self.at += 1
        whole = self.digits()
        if not whole or (len(whole) > 1 and whole[0] == "0"):
            _refuse("number")
        fraction = False
        if self.text.startswith(".", self.at):
            self.at += 1
            fraction = True
            if not self.digits():
                _refuse("number")
        if self.text[self.at : self.at + 1] in ("e", "E"):
            self.at += 1
            fraction = True
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            if not self.digits():
                _refuse("number")
        text = self.text[start : self.at]
        if fraction:
            return Fraction(text)
        if text == "-0" or len(text) > 20:
            _refuse("integer that programs read differently")
        return int(text)

    def digits(self) -> str:
        start = self.at
        while self.text[self.at : self.at + 1] in tuple("0123456789"):
            self.at += 1
        return self.text[start : self.at]

    def string(self) -> str:
        self.take('"')
        letters: list[str] = []
        while True:
            letter = self.text[self.at : self.at + 1]
            self.at += 1
            if letter == '"':
                break
            if letter == "" or letter < " ":
                _refuse("string")
            letters.append(self.escape() if letter == "\\" else letter)
        found = "".join(letters)
        if "\x00" in found or any(0xD800 <= ord(letter) < 0xE000 for letter in found):
            _refuse("string that can't be kept")
        return found

    def escape(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter != "u":
            _refuse("escape")
        unit = self.unit()
        if 0xD800 <= unit < 0xDC00 and self.text.startswith("\\u", self.at):
            self.at += 2
            low = self.unit()
            if not 0xDC00 <= low < 0xE000:
                _refuse("half of a pair")
            return chr(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))
        return chr(unit)

    def unit(self) -> int:
        digits = self.text[self.at : self.at + 4]
        self.at += 4
        if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            _refuse("escape")
        return int(digits, 16)
