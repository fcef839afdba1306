"""The callback as a plugin of axolotl; its YAML has ``plugins: [registry.training.axolotl.RegistryPlugin]``."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from registry.training.callback import RegistryCallback


class RegistryArgs(BaseModel):
    """The keys that the plugin adds to axolotl's YAML; without one, its setting ``REGISTRY_PUBLISH_...`` counts."""

    registry_path: str | None = None
    registry_every: str | int | None = None
    registry_keep_best: int | None = None
    registry_keep_last: int | None = None
    registry_parent: str | None = None
    registry_tags: list[str] | None = None


class RegistryPlugin(BasePlugin):  # type: ignore[misc] # of a library without types
    """Gives axolotl's trainer a `RegistryCallback`."""

    def get_input_args(self) -> str:
        """Where axolotl finds the keys."""
        return f"{RegistryArgs.__module__}.{RegistryArgs.__qualname__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """The callback, by the keys of the YAML."""
        del trainer
        return [
            RegistryCallback(
                cfg.registry_path,
                every=cfg.registry_every,
                keep_best=cfg.registry_keep_best,
                keep_last=cfg.registry_keep_last,
                parent=cfg.registry_parent,
                tags=cfg.registry_tags or (),
            )
        ]
