"""The builder of each kind; the kinds' properties are in `registry.schemas.kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.schemas import ArtifactKind
from registry.services.artifacts.kinds.builder import Builder
from registry.services.artifacts.kinds.composed import COMPOSED
from registry.services.artifacts.kinds.merged import MERGED
from registry.services.artifacts.kinds.published import PUBLISHED

BUILDERS: Final[Mapping[ArtifactKind, Builder]] = {"merged": MERGED, "lora": COMPOSED, "published": PUBLISHED}
