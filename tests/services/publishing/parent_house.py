"""A tree whose adapters were trained on folders of merged models; what these hold is computed without the registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from registry.errors import ConflictError, RegistryError, UsageError
from registry.operations.registry import Registry
from registry.operations.transfer import Transfer
from registry.progress import SILENT
from registry.schemas.transfer import BaseCommit
from registry.services.local import LocalRegistry
from registry.transfer.source import base_request
from tests.kit import Base, RawTensor, plain_base, read_model, read_tensors, write_adapter, write_tensors
from tests.kit.floats import Array, round_once
from tests.kit.sending import upload

WEIGHTS = "model.safetensors"
SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24), "c.weight": (16, 16), "norm.weight": (16,)}
SOURCE = f"hf:acme/net@{'1' * 40}"


class House:
    """base net; net/support@1 and @2 on ``a``, net/support/shop@1 on @1 on ``a`` and ``b``."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        make: Callable[..., Base] = plain_base,
        targets: Sequence[str] = ("a", "b"),
        *,
        source: str | None = None,
        **options: Any,
    ) -> None:
        self.folder, self.registry, self.targets = folder, registry, list(targets)
        given = {"shapes": SHAPES} if make is plain_base else {}
        self.base = make(folder / "base", **({"dtype": "BF16"} | given | options))
        self._add(source)
        self.support = [self.adapter(f"support-{seed}", seed=seed, targets=self.targets[:1]) for seed in (1, 2)]
        for one in self.support:
            registry.publish(one, "net/support")
        self.shop = self.adapter("shop", seed=3)
        registry.publish(self.shop, "net/support/shop", parent="net/support@1")

    def _add(self, source: str | None) -> None:
        if source is None:
            self.registry.add_base("net", self.base.folder)
            return
        target = cast(Transfer, self.registry)
        made = base_request("net", self.base.folder, SILENT)
        request = made.request.model_copy(update={"source": source})
        uploads = upload(target, made.sources, target.plan_base(request).missing)
        target.commit_base(BaseCommit(request=request, uploads=uploads))

    def adapter(self, name: str, trained_on: Path | str | None = None, **options: Any) -> Path:
        """An adapter that says what it was trained on."""
        defaults: dict[str, Any] = {"targets": self.targets, "r": 2, "size": 0.05, "seed": 9}
        options = defaults | options
        told = None if trained_on is None else str(trained_on)
        config = {"base_model_name_or_path": told, "revision": options.pop("revision", None)}
        return write_adapter(self.folder / name, self.base, options.pop("targets"), config=config, **options)

    def merged(self, name: str, adapters: Sequence[Path], dtype: str = "BF16") -> Path:
        """The folder of a model that was merged at once and rounded to ``dtype``."""
        values = {tensor: one.values for tensor, one in self.base.reference(adapters).items()}
        return self.save(name, values, dtype)

    def stepwise(self, name: str, adapters: Sequence[Path], dtype: str = "BF16") -> Path:
        """The same, loaded in ``dtype`` and rounded after each link."""
        weights = {tensor: one.values for tensor, one in self.base.reference([]).items()}
        found = {tensor: round_once(value, dtype) for tensor, value in weights.items()}
        for adapter in adapters:
            alone = self.base.reference([adapter])
            found = {
                tensor: round_once(value + round_once(alone[tensor].values - weights[tensor], dtype), dtype)
                for tensor, value in found.items()
            }
        return self.save(name, found, dtype)

    def save(self, name: str, values: dict[str, Array], dtype: str = "BF16") -> Path:
        """A model's folder with these weights."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "plain-net"}))
        tensors = {tensor: RawTensor.of(round_once(value, dtype), dtype) for tensor, value in values.items()}
        write_tensors(folder / WEIGHTS, tensors)
        return folder

    def values(self, folder: Path) -> dict[str, Array]:
        """What a folder's weights are."""
        return {tensor: raw.values for tensor, raw in read_model(folder).items()}

    def summed(self, weights: Mapping[Path, float]) -> dict[str, Array]:
        """The base's weights and the weighted deltas of adapters, as a script sums them."""
        base = {tensor: one.values for tensor, one in self.base.reference([]).items()}
        found = {tensor: value.copy() for tensor, value in base.items()}
        for adapter, weight in weights.items():
            for tensor, one in self.base.reference([adapter]).items():
                found[tensor] += weight * (one.values - base[tensor])
        return found

    def near(self, name: str, adapter: Path, share: float) -> Path:
        """An adapter of other values, its delta about ``share`` of itself away."""
        folder = self.folder / name
        folder.mkdir()
        tensors = read_tensors(adapter / "adapter_model.safetensors")
        random = np.random.default_rng(5)
        for key, raw in tensors.items():
            if "lora_B" in key:
                noise = random.standard_normal(raw.values.shape)
                noise *= share * np.linalg.norm(raw.values) / np.linalg.norm(noise)
                tensors[key] = RawTensor.of(raw.values + noise, "F32")
        write_tensors(folder / "adapter_model.safetensors", tensors)
        (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
        return folder

    def rounded(self, name: str, adapter: Path, dtype: str) -> Path:
        """The same adapter with its factors rounded, as a model is that was turned into ``dtype`` before merging."""
        folder = self.folder / name
        folder.mkdir()
        tensors = read_tensors(adapter / "adapter_model.safetensors")
        rounded = {key: RawTensor.of(round_once(raw.values, dtype), "F32") for key, raw in tensors.items()}
        write_tensors(folder / "adapter_model.safetensors", rounded)
        (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
        return folder

    def refused(self, child: Path, path: str, **options: Any) -> RegistryError:
        """The error of a publish that leaves nothing behind."""
        before = self.registry.search().revisions
        with pytest.raises((ConflictError, UsageError)) as refused:
            self.registry.publish(child, path, **options)
        assert self.registry.search().revisions == before
        return refused.value

    def pinned(self, child: Path, path: str, **options: Any) -> tuple[str, str]:
        """What a child is pinned to, and how that is known."""
        revision = self.registry.publish(child, path, **options).revision
        return revision.parent, revision.parent_known_by


def opened(folder: Path) -> LocalRegistry:
    """A registry in a folder."""
    return LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")
