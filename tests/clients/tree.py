"""The registry that the clients load from: small models, paths of depth 4 with rsLoRA and DoRA links, and a service."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry.operations.registry import Registry
from registry.rights import Role
from registry.services.local import LocalRegistry
from tests.kit import Base, llama_base, write_adapter
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.servers_service import ServiceProcess
from tests.kit.tokenizer_files import add_working_tokenizer

NAMES: Final = ("support", "french", "legal", "task")
DEEP: Final = ".".join(NAMES)
"""The path of all four links as the second half of a Hub repo id."""

LINKS: Final = (
    Recipe(("q_proj", "v_proj"), r=4, alpha=8, seed=1, scale=3),
    Recipe(("q_proj", "k_proj"), r=4, alpha=8, rslora=True, seed=2, scale=3),
    Recipe(("q_proj", "v_proj"), r=2, alpha=4, dora=True, seed=3, scale=3),
    Recipe(("v_proj", "o_proj", "up_proj"), r=3, alpha=3, rslora=True, seed=4, scale=3),
)


@dataclass
class Tree:
    """A served registry, and the folders that it was made of. Tests that change it publish under names of their own."""

    registry: LocalRegistry
    service: ServiceProcess
    folder: Path
    bases: dict[str, Base]
    links: dict[str, list[Path]]
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def token(self, role: Role = "reader", *scopes: str) -> tuple[str, str]:
        """A new token: its id and its secret."""
        made = self.registry.create_token(role, name="client", scopes=scopes)
        return made.token.id, made.secret

    def publish(self, path: str, seed: int = 1) -> str:
        """Publish a new revision of an adapter of ``llama``; its reference."""
        folder = write_adapter(
            self.folder / f"new-{next(self._numbers)}", self.bases["llama"], ["q_proj", "v_proj"], r=2, seed=seed
        )
        return self.registry.publish(folder, path).revision.reference


def make_bases(folder: Path) -> dict[str, Base]:
    """A causal model in one file and the same in three."""
    bases = {"llama": llama_base(folder / "llama"), "sharded": llama_base(folder / "sharded", shards=3)}
    for base in bases.values():
        add_working_tokenizer(base.folder)
    # Left behind by somebody: a client that saw it would take the models for adapters.
    (bases["sharded"].folder / "adapter_config.json").write_text("{}")
    return bases


def fill(registry: LocalRegistry, folder: Path, bases: dict[str, Base]) -> dict[str, list[Path]]:
    """Add the bases, and publish a path of four links on each; the folders of the links."""
    links: dict[str, list[Path]] = {}
    for name, base in bases.items():
        registry.add_base(name, base.folder)
        links[name] = write_recipes(folder / f"{name}-links", base, LINKS)
        publish_path(registry, name, links[name])
    return links


def publish_path(registry: Registry, base: str, links: Sequence[Path]) -> None:
    """Publish links under the names of `NAMES`."""
    path, parent = base, base
    for name, link in zip(NAMES, links, strict=False):
        path = f"{path}/{name}"
        # A model with adapters merged into it in memory goes on saying that it is the base.
        parent = registry.publish(link, path, parent=parent, skip_parent_check=True).revision.reference
