"""The builder of each kind; the kinds' properties are in `registry.schemas.artifacts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from registry.schemas import ArtifactKind
from registry.services.artifacts.kinds.builder import Builder


# Each is imported when it is wanted: stored bytes are handed out without torch.
def _merged() -> Builder:
    from registry.services.artifacts.kinds.merged import MERGED

    return MERGED


def _composed() -> Builder:
    from registry.services.artifacts.kinds.composed import COMPOSED

    return COMPOSED


def _published() -> Builder:
    from registry.services.artifacts.kinds.published import PUBLISHED

    return PUBLISHED


BUILDERS: Final[Mapping[ArtifactKind, Callable[[], Builder]]] = {
    "merged": _merged,
    "lora": _composed,
    "published": _published,
}


def builder_of(kind: ArtifactKind) -> Builder:
    """The builder of a kind."""
    return BUILDERS[kind]()
