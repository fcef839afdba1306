"""Base folders from strangers: whatever index.json and config.json say, the folder is read or refused by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidBaseError, NotFoundError
from registry.files.header import write_header
from registry.transfer.model_files import read_model_files
from tests.fuzz.config_texts import ODD_TEXTS, VALUES, dumped
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.fuzz.header_files import mutated

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shard(*names: str) -> bytes:
    head, header = write_header([(name, "F32", (2,)) for name in names], {"format": "pt"})
    return head + bytes(8 * len(header.entries))


FILES = {SHARDS[0]: shard("a.weight", "b.weight"), SHARDS[1]: shard("c.weight")}
MAP: dict[str, Any] = {"a.weight": SHARDS[0], "b.weight": SHARDS[0], "c.weight": SHARDS[1]}
ODD_NAMES = st.sampled_from(
    ["../x.safetensors", "/etc/passwd", "a/b", "", ".", "..", "model.safetensors", "x" * 5000, "\n", "\u202e", *SHARDS]
)


@st.composite
def indexes(draw: st.DrawFn) -> bytes:
    """An index with up to two faults."""
    places = dict(MAP)
    document: dict[str, Any] = {"metadata": {"total_size": 24}, "weight_map": places}
    for _ in range(draw(st.integers(0, 2))):
        match draw(st.integers(0, 5)):
            case 0:
                places[draw(st.sampled_from([*MAP, "d.weight", "é"]))] = draw(ODD_NAMES | VALUES)
            case 1:
                places.pop(draw(st.sampled_from(sorted(MAP))), None)
            case 2:
                document["weight_map"] = draw(VALUES)
            case 3:
                document[draw(st.sampled_from(["weight_map", "metadata", "x"]))] = draw(VALUES)
            case 4:
                document.pop("weight_map", None)
            case _:
                pass
    text = dumped(document)
    if draw(st.integers(0, 4)) == 0:
        text = text.replace(
            draw(st.sampled_from(['"a.weight"', "24", '"metadata"', f'"{SHARDS[0]}"'])),
            draw(st.sampled_from(ODD_TEXTS)),
        )
    return text.encode("utf-8", "surrogatepass")


@st.composite
def configs(draw: st.DrawFn) -> bytes:
    """A model's config.json."""
    document: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    for field in draw(
        st.lists(st.sampled_from(["quantization_config", "model_type", "architectures", "dtype", "x"]), max_size=2)
    ):
        document[field] = draw(VALUES | st.fixed_dictionaries({"quant_method": VALUES}))
    text = dumped(document)
    if draw(st.integers(0, 3)) == 0:
        text = text.replace('"llama"', draw(st.sampled_from(ODD_TEXTS)))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"[", b"\xff"])) + text.encode("utf-8", "surrogatepass")


CODES = ("missing_file", "bad_index", "path_traversal", "bad_safetensors", "quantised_base", "bad_config")


def judge(files: dict[str, bytes]) -> bool:
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            found = read_model_files(Path(folder))
        except (InvalidBaseError, NotFoundError) as problem:
            said_well(problem, *CODES)
            return False
        places = {name: path for path, header in found.headers.items() for name in header.entries}
        assert places
        if INDEX in files:
            assert places == json.loads(files[INDEX])["weight_map"]
        return True


def test_the_folder_is_read() -> None:
    assert judge(FILES | {INDEX: dumped({"weight_map": MAP}).encode(), "config.json": b"{}"})
    assert judge({"model.safetensors": FILES[SHARDS[0]]})


@settings(QUICK, max_examples=120)
@given(indexes(), configs())
def test_any_index_and_config(index: bytes, config: bytes) -> None:
    judge(FILES | {INDEX: index, "config.json": config})


@settings(QUICK, max_examples=60)
@given(mutated((dumped({"weight_map": MAP}).encode() * 1,)))
def test_a_broken_index(index: bytes) -> None:
    judge(FILES | {INDEX: index})


@pytest.mark.long
@settings(LONG)
@given(indexes(), configs(), mutated(tuple(FILES.values())) | st.just(FILES[SHARDS[0]]))
def test_many_folders(index: bytes, config: bytes, first: bytes) -> None:
    judge({SHARDS[0]: first, SHARDS[1]: FILES[SHARDS[1]], INDEX: index, "config.json": config})
