"""A base model's files while they are hashed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from registry.errors import IntegrityError
from registry.services.local import LocalRegistry
from tests.kit import plain_base


class Renaming:
    """Somebody who writes other names into a file of the same size as soon as its header was read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def begin(self, what: str, total: int) -> None:
        del what, total
        data = self.file.read_bytes()
        swapped = data.replace(b'"a.weight"', b'"?.weight"').replace(b'"b.weight"', b'"a.weight"')
        self.file.write_bytes(swapped.replace(b'"?.weight"', b'"b.weight"'))

    def advance(self, amount: int) -> None:
        """No matter."""


def test_tensors_are_those_of_the_header_that_is_hashed(tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", {"a.weight": (64, 32), "b.weight": (64, 32)})
    file = base.folder / "model.safetensors"
    with closing(LocalRegistry.open(tmp_path / "registry", create=True)) as registry:
        with pytest.raises(IntegrityError, match=r"model\.safetensors changed while it was being added"):
            registry.add_base("net", base.folder, progress=Renaming(file))
        assert registry.tree().roots == ()
        registry.add_base("net", base.folder)
