"""A registry with one base model, whose full fine-tunes are kept exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.services.local import LocalRegistry
from tests.kit import Base, RawTensor, llama_base, read_model


class Shop:
    """A registry with the base model net, and folders."""

    def __init__(
        self, folder: Path, registry: LocalRegistry, make: Callable[..., Base] = llama_base, **how: Any
    ) -> None:
        self.folder, self.registry = folder, registry
        self.base = make(folder / "base", **({"dtype": "BF16", "shards": 2} | how))
        registry.add_base("net", self.base.folder)

    def published(self, path: str, model: Base, **options: Any) -> str:
        return str(self.registry.publish(model.folder, path, full=True, **options).revision.reference)

    def merged(self, ref: str, **options: Any) -> dict[str, RawTensor]:
        out = self.folder / f"merged-{len(list(self.folder.iterdir()))}"
        self.registry.fetch(ref, out, kind="merged", **options)
        assert self.registry.verify(out).equal
        return read_model(out)

    def refused(self, folder: Path, path: str = "net/other", **options: Any) -> RegistryError:
        with pytest.raises(RegistryError) as caught:
            self.registry.publish(folder, path, full=True, **options)
        return caught.value


def same_bits(found: dict[str, RawTensor], model: Path) -> None:
    """The tensors are those of a model's folder, bit for bit."""
    wanted = read_model(model)
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert (found[name].dtype, found[name].shape) == (one.dtype, one.shape), name
        assert found[name].data == one.data, name
