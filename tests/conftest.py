"""Shared by all tests: the target table of a base model is made once a base, not once a test.

Making one imports transformers in a child process, which takes seconds; many tests add the same small models. The
tests of the maker itself call it directly and are not touched.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.digest import document_digest
from registry.services import bases
from registry.tensors.table.architecture import make_table
from registry.tensors.table.targets import TargetTable


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of one run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if folder.name.startswith("popen-") else folder
    made = folder / "target-tables"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture(autouse=True)
def tables_made_once(table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remembered(config: Mapping[str, Any] | None, tensors: Mapping[str, Any]) -> TargetTable:
        key = document_digest({"config": config, "tensors": tensors}).removeprefix("sha256:")
        place = table_folder / f"{key}.json"
        if place.is_file():
            return TargetTable.from_document(json.loads(place.read_text()))
        table = make_table(config, tensors)
        with tempfile.NamedTemporaryFile("w", dir=table_folder, delete=False) as stream:
            json.dump(table.to_document(), stream)
        Path(stream.name).replace(place)
        return table

    monkeypatch.setattr(bases, "make_table", remembered)
