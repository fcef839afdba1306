"""Safetensors files for fuzzing: valid ones of every sort, and faults to plant in them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.strict_reader import BITS

Pairs = tuple[tuple[str, str], ...]
"""The members of an object as JSON texts, so that a key can stand there twice."""


@dataclass(frozen=True)
class Draft:
    """A file before it is written: the members of the header, space after it, the tensors' bytes."""

    members: Pairs
    padding: bytes = b""
    data: bytes = b""
    length: Callable[[int], int] = int  # what the length field says, of the true one

    def file(self) -> bytes:
        head = "{" + ",".join(f"{key}:{value}" for key, value in self.members) + "}"
        raw = head.encode("utf-8", "surrogatepass") + self.padding
        return (self.length(len(raw)) % 2**64).to_bytes(8, "little") + raw + self.data


def quoted(text: str, *, plain: bool) -> str:
    """A JSON string; ``plain`` keeps letters outside ASCII as they are."""
    return json.dumps(text, ensure_ascii=not plain)


def entry(dtype: str, shape: tuple[int, ...], start: int, stop: int) -> str:
    """A tensor's entry in the header."""
    return f'{{"dtype":"{dtype}","shape":{list(shape)},"data_offsets":[{start},{stop}]}}'


NAMES: Final = st.one_of(
    st.from_regex(r"base_model\.model\.[a-z_]{1,8}\.[0-9]\.lora_[AB]\.weight", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", "a", "a ", "é", "e\u0301", "\ufeff", "\u200b", "\u2028", "\U0001f999", "__proto__", "\U0001d400"]
    ),
)
SHAPES: Final = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5]), max_size=4).map(tuple)
PADDINGS: Final = st.sampled_from(
    [b"", b" ", b"       ", b"\n", b"\t\r\n ", b"\x00", b"}", b" {}", b"\xc2\xa0", b"\x0b"]
)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Valid files: tensors in any order of the header, zero-sized ones, metadata or none, odd but legal spelling."""
    plain = draw(st.booleans())
    members: list[tuple[str, str]] = []
    at = 0
    for name in draw(st.lists(NAMES.filter(lambda name: "\x00" not in name), max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(SHAPES)
        stop = at + math.prod(shape) * BITS[dtype] // 8
        members.append((quoted(name, plain=plain), entry(dtype, shape, at, stop)))
        at = stop
    members = draw(st.permutations(members))
    if draw(st.booleans()):
        found = draw(st.dictionaries(NAMES.filter(lambda name: "\x00" not in name), NAMES, max_size=2))
        kept = {key: value for key, value in found.items() if "\x00" not in value}
        members.insert(draw(st.integers(0, len(members))), ('"__metadata__"', json.dumps(kept)))
    return Draft(
        tuple(members), draw(st.sampled_from([b"", b" ", b" " * 7, b"\n\t "])), bytes(at % 251 for at in range(at))
    )


ODD_NUMBERS: Final = (
    "1.0", "1e0", "1E3", "true", "false", "null", '"1"', "-1", "-0", "0.0", "00", "01", "+1", "0x1", ".5", "1.", "NaN",
    "Infinity", "-Infinity", "9" * 19, "9" * 20, "9" * 400, str(2**63), str(2**64), str(2**48), str(2**48 + 1), "1e400",
    "[1]", "{}", "\u0661", "1 1", "", "1_0", "4294967296",
)  # fmt: skip
ODD_VALUES: Final = (
    "null", "[]", "{}", "1", '""', '["F32",[1],[0,4]]', '{"dtype":"F32","shape":[1]}', "[" * 70 + "]" * 70,
    '{"dtype":"F4","shape":[2],"data_offsets":[0,1]}', '{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}',
    '{"dtype":"f32","shape":[0],"data_offsets":[0,0]}', '{"dtype":"F32 ","shape":[0],"data_offsets":[0,0]}',
    '{"dtype":["F32"],"shape":[0],"data_offsets":[0,0]}', '{"dtype":"F32","shape":0,"data_offsets":[0,0]}',
    '{"dtype":"F32","shape":[0],"data_offsets":[0,0],"extra":1}', '{"dtype":"F32","shape":[0],"data_offsets":[0]}',
    '{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}', '{"dtype":"F32","shape":[0],"data_offsets":{"0":0}}',
    '{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}',
    '{"dtype":"F32","shape":[0],"data_offsets":[4,0]}',
    f'{{"dtype":"F32","shape":[{2**40},{2**40},0],"data_offsets":[0,0]}}',
    f'{{"dtype":"F32","shape":[0,{2**40},{2**40}],"data_offsets":[0,0]}}',
    f'{{"dtype":"F32","shape":[{2**32},{2**32}],"data_offsets":[0,0]}}',
    f'{{"dtype":"U8","shape":[{2**32},{2**32}],"data_offsets":[0,0]}}',
    f'{{"dtype":"C64","shape":[{2**44},{2**17}],"data_offsets":[0,0]}}',
    '{"dtype":"U8","shape":[' + ",".join("1" * 17) + '],"data_offsets":[0,1]}',
    '{"dtype":"U8","shape":[],"data_offsets":[0,1]}', '{"dtype":"F8_E4M3FNUZ","shape":[0],"data_offsets":[0,0]}',
)  # fmt: skip
ODD_METADATA: Final = (
    "null", "[]", '""', '{"a":1}', '{"a":null}', '{"a":["b"]}', '{"a":{"b":"c"}}', '{"a":"1","a":"2"}',
    '{"a":"\\ud800"}', '{"a":"\\u0000"}', '{"\\udc00\\ud800":"x"}', '{"a":"\\ud83d\\ude00"}', '{"a":"\ud800"}',
    '{"a":"b",}', "{'a':'b'}", '{"a":true}', '{"a":"\t"}', '{"a":"\\x41"}', '{"a":"\\u00g0"}', '{"a":"\\u 041"}', "{}",
)  # fmt: skip
ODD_KEYS: Final = (
    '"\\u0061"', '"a"', '"\\u0000"', '"\\ud800"', '"\x00"', '"\n"', "a", "1", "null", '"a\\"', '""', '"\\/"', '"/"',
    '"' + "n" * 1024 + '"', '"' + "n" * 1025 + '"', '"\ud800"', '"\\uD83D\\uDE00"', '"\\ud83dx"', '"__metadata__"',
)  # fmt: skip


@st.composite
def faulty_drafts(draw: st.DrawFn) -> bytes:
    """Files with one to three planted faults, some of which cancel or are none."""
    draft = draw(drafts())
    for _ in range(draw(st.integers(1, 3))):
        draft = draw(st.sampled_from(FAULTS))(draw, draft)
    return draft.file()


def _with(draft: Draft, place: int, member: tuple[str, str]) -> Draft:
    return replace(draft, members=(*draft.members[:place], member, *draft.members[place + 1 :]))


def _place(draw: st.DrawFn, draft: Draft) -> int:
    return draw(st.integers(0, max(len(draft.members) - 1, 0)))


def _number(draw: st.DrawFn, draft: Draft) -> Draft:
    """One number of an entry is replaced by something odd, or by a neighbour."""
    place = _place(draw, draft)
    key, value = draft.members[place] if draft.members else ('"a"', entry("U8", (1,), 0, 1))
    runs = [at for at, letter in enumerate(value) if letter.isdigit() and not value[at - 1].isalnum()]
    if not runs:
        return draft
    start = draw(st.sampled_from(runs))
    stop = start
    while value[stop : stop + 1].isdigit():
        stop += 1
    near = str(int(value[start:stop]) + draw(st.sampled_from([-1, 1, 4, 2**32, 2**64])))
    return _with(draft, place, (key, value[:start] + draw(st.sampled_from((*ODD_NUMBERS, near))) + value[stop:]))


def _value(draw: st.DrawFn, draft: Draft) -> Draft:
    key = draft.members[place := _place(draw, draft)][0] if draft.members else '"a"'
    return _with(draft, place if draft.members else 0, (key, draw(st.sampled_from(ODD_VALUES))))


def _added(draw: st.DrawFn, draft: Draft) -> Draft:
    key = draw(st.sampled_from((*ODD_KEYS, *(key for key, _ in draft.members))))
    value = draw(
        st.sampled_from((*ODD_VALUES, entry("F32", (0,), 0, 0), entry("F32", (0,), len(draft.data), len(draft.data))))
    )
    return replace(draft, members=(*draft.members, (key, value)))


def _key(draw: st.DrawFn, draft: Draft) -> Draft:
    place = _place(draw, draft)
    return _with(draft, place, (draw(st.sampled_from(ODD_KEYS)), draft.members[place][1])) if draft.members else draft


def _metadata(draw: st.DrawFn, draft: Draft) -> Draft:
    return replace(draft, members=(*draft.members, ('"__metadata__"', draw(st.sampled_from(ODD_METADATA)))))


def _dropped(draw: st.DrawFn, draft: Draft) -> Draft:
    place = _place(draw, draft)
    return replace(draft, members=draft.members[:place] + draft.members[place + 1 :])


def _padding(draw: st.DrawFn, draft: Draft) -> Draft:
    return replace(draft, padding=draw(PADDINGS))


def _data(draw: st.DrawFn, draft: Draft) -> Draft:
    return replace(draft, data=draw(st.sampled_from([draft.data + b"\0", draft.data[:-1], b"", draft.data * 2])))


LENGTHS: Final[tuple[Callable[[int], int], ...]] = (
    lambda true: true + 1,
    lambda true: true - 1,
    lambda true: 0,
    lambda true: 1,
    lambda true: 2**63,
    lambda true: 2**64 - 8,
    lambda true: 2**64 - 1,
    lambda true: 100_000_001,
    lambda true: int.from_bytes(true.to_bytes(8, "big"), "little"),
)


def _length(draw: st.DrawFn, draft: Draft) -> Draft:
    return replace(draft, length=draw(st.sampled_from(LENGTHS)))


def _spaced(draw: st.DrawFn, draft: Draft) -> Draft:
    """White space (or what only looks like it) between tokens."""
    space = draw(st.sampled_from([" ", "\n", "\t", "\r", "\u00a0", "\u3000", "\ufeff", "/**/", "\x0b", "\x0c"]))
    return replace(draft, members=tuple((space + key + space, space + value + space) for key, value in draft.members))


FAULTS: Final = (_number, _number, _value, _added, _key, _metadata, _dropped, _padding, _data, _length, _spaced)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A real file with bytes flipped, cut, doubled, put in, or parts of another file spliced in."""
    file = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.integers(0, 6))
        at = draw(st.integers(0, max(len(file) - 1, 0)))
        stop = min(len(file), at + draw(st.integers(1, 40)))
        if how == 0 and file:
            file[at] ^= 1 << draw(st.integers(0, 7))
        elif how == 1 and file:
            file[at] = draw(st.sampled_from(b'0123456789{}[]",:\\eE.-+ \x00\xff\xc0\x80tfn'))
        elif how == 2:
            del file[at:stop]
        elif how == 3:
            del file[at:]
        elif how == 4:
            file[at:at] = file[at:stop]
        elif how == 5:
            file[at:at] = draw(st.binary(max_size=6))
        else:
            other = draw(st.sampled_from(seeds))
            file[at:stop] = other[at:stop]
    if draw(st.booleans()) and len(file) > 8:  # mend the length, so that the fault lies deeper
        end = file.rfind(b"}", 8) + 1
        file[:8] = max(end - 8, 0).to_bytes(8, "little")
    return bytes(file)
