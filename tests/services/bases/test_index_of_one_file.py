"""A model in one file that has an index, too, as mlx-lm writes it: both say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.errors import InvalidBaseError
from registry.services.local import LocalRegistry
from tests.kit import plain_base
from tests.kit.tensor_files import read_tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def test_an_index_of_the_one_file_contradicts_nothing(tmp_path: Path) -> None:
    folder = plain_base(tmp_path / "base").folder
    names = list(read_tensors(folder / SINGLE))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, SINGLE)}))
    with LocalRegistry.open(tmp_path / "registry", create=True) as team:
        team.add_base("net", folder)
        fetched = Path(team.fetch("net", tmp_path / "fetched", kind="merged").folder)
        for name in (SINGLE, INDEX):
            assert (fetched / name).read_bytes() == (folder / name).read_bytes()
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names[1:], SINGLE)}))
        with pytest.raises(InvalidBaseError, match=f"{INDEX} puts tensor") as less:
            team.add_base("less", folder)
        assert less.value.code == "bad_index"


def test_an_index_of_other_files_does(tmp_path: Path) -> None:
    folder = plain_base(tmp_path / "base", shards=2).folder
    (folder / SINGLE).write_bytes(next(folder.glob("model-*")).read_bytes())
    with (
        LocalRegistry.open(tmp_path / "registry", create=True) as team,
        pytest.raises(InvalidBaseError, match=r"has both .* which names other files") as refused,
    ):
        team.add_base("net", folder)
    assert refused.value.code == "bad_index"
