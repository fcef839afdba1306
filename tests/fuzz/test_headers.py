"""Headers from strangers: our reader, an independent strict reader and safetensors itself judge the same files.

Ours accepts exactly what the strict reader accepts, with the same content; it never accepts what safetensors refuses;
and whatever it refuses, it refuses in one short sentence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.files.header import Header, read_header, write_header
from registry.files.source import BytesSource, read_range
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.fuzz.header_files import Draft, drafts, entry, faulty_drafts, mutated
from tests.fuzz.strict_reader import Content, RefusedError, read_strictly
from tests.kit import RawTensor, write_tensors


def ours(file: bytes) -> Header | None:
    try:
        return read_header(BytesSource(file, "a file"), what="x.safetensors", error=InvalidAdapterError)
    except InvalidAdapterError as problem:
        said_well(problem, "bad_safetensors")
        return None


def strictly(file: bytes) -> Content | RefusedError:
    try:
        return read_strictly(file)
    except RefusedError as why:
        return why


def judge(file: bytes) -> bool:
    """Compare the three readers; whether the file was accepted."""
    header = ours(file)
    strict = strictly(file)
    if isinstance(strict, RefusedError):
        assert header is None, f"accepted, but: {strict}"
        return False
    tensors, metadata = strict
    assert header is not None, "refused, but strictly valid"
    assert header.metadata == metadata
    source = BytesSource(file, "a file")
    found = {
        name: (one.dtype, one.shape, bytes(read_range(source, one.start, one.stop)))
        for name, one in header.entries.items()
    }
    assert found == tensors
    opened: list[Any] = safetensors.deserialize(file)  # type: ignore[no-untyped-call] # it has no annotations
    theirs = {name: (one["dtype"], tuple(one["shape"]), bytes(one["data"])) for name, one in opened}
    assert theirs == found
    return True


def _seeds() -> tuple[bytes, ...]:
    """Files as PEFT and transformers write them, small; the first is the smallest that there is."""

    def of(*tensors: tuple[str, str, tuple[int, ...]], **metadata: str) -> bytes:
        head, header = write_header(tensors, metadata)
        return head + bytes(
            at % 256
            for at in range(max((one.stop for one in header.entries.values()), default=header.size) - header.size)
        )

    lead = "base_model.model.model.layers.0.self_attn"
    return (
        (2).to_bytes(8, "little") + b"{}",
        of(
            (f"{lead}.q_proj.lora_A.weight", "F32", (2, 4)),
            (f"{lead}.q_proj.lora_B.weight", "F32", (4, 2)),
            format="pt",
        ),
        of(("a", "BF16", (3,)), ("b", "U8", (0, 7)), ("c", "F64", ()), ("d", "I16", (1, 2, 3)), format="pt", é="ü"),
        of(("weight", "F16", (2, 2)), ("bias", "F32", (2,))),
        Draft((('"x"', entry("F32", (1,), 4, 8)), ('"y"', entry("F32", (1,), 0, 4))), b" ", bytes(8)).file(),
    )


SEEDS = _seeds()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seeds_are_valid(seed: bytes) -> None:
    assert judge(seed)


@pytest.mark.slow
@settings(QUICK)
@given(drafts())
def test_every_valid_file_is_accepted(draft: Draft) -> None:
    assert judge(draft.file())


@pytest.mark.slow
@settings(QUICK, max_examples=250)
@given(faulty_drafts())
def test_planted_faults(file: bytes) -> None:
    judge(file)


@settings(QUICK, max_examples=400)
@given(mutated(SEEDS))
def test_broken_bytes(file: bytes) -> None:
    judge(file)


@settings(QUICK)
@given(st.binary(max_size=40), st.booleans())
@example(b"", False)
def test_any_bytes(data: bytes, measured: bool) -> None:
    judge(len(data).to_bytes(8, "little") + data if measured else data)


@pytest.mark.long
@settings(LONG)
@given(drafts().map(Draft.file) | faulty_drafts() | mutated(SEEDS) | st.binary(max_size=200))
def test_many_files(file: bytes) -> None:
    judge(file)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_every_byte_and_every_cut(seed: bytes) -> None:
    """All files that differ from a seed by one bit of the header, by one byte less or by one digit."""
    head = 8 + int.from_bytes(seed[:8], "little")
    for at in range(head):
        for bit in (1, 2, 32, 128):
            judge(seed[:at] + bytes([seed[at] ^ bit]) + seed[at + 1 :])
        judge(seed[:at])
        judge(seed[:at] + seed[at + 1 :])


@settings(QUICK, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drafts())
def test_what_is_accepted_opens_with_safetensors(tmp_path: Path, draft: Draft) -> None:
    """`safe_open` reads by another way than `deserialize`: from a mapped file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(draft.file())
    header = ours(path.read_bytes())
    assert header is not None
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert set(opened.keys()) == set(header.entries)
        assert (opened.metadata() or {}) == header.metadata


def test_what_is_written_is_read_back_by_all(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"a": RawTensor("F32", (2,), bytes(8)), "b": RawTensor("U8", (0,), b"")})
    assert judge((tmp_path / "a.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (f'{{"dtype":"F32","shape":[{2**40},{2**40},0],"data_offsets":[0,0]}}', "out of range"),
        (f'{{"dtype":"F32","shape":[0,{2**40},{2**40}],"data_offsets":[0,0]}}', "out of range"),
        ('{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}', "integer -0"),
        ('{"dtype":"F32","shape":[0],"data_offsets":[-0,0]}', "integer -0"),
    ],
)
def test_what_a_product_or_a_sign_can_hide(member: str, fault: str) -> None:
    with pytest.raises(InvalidAdapterError, match=fault):
        read_header(BytesSource(Draft((('"a"', member),)).file(), "a file"), what="x", error=InvalidAdapterError)


def test_a_message_stays_short_whatever_the_names_are() -> None:
    long = json.dumps("n" * 100_000)
    for members in (
        ((long, "{}"),),
        (('"a"', f'{{"dtype":{long},"shape":[],"data_offsets":[0,0]}}'),),
        ((long, "1"), (long, "1")),
    ):
        assert ours(Draft(members).file()) is None
