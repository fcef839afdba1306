"""Which base model of the registry an engine serves.

vLLM tells a resolver the name of its model and nothing about the weights. So the tie is by name: what the setting says,
or what the model's name or folder says where it came from the registry. Nothing is guessed from likeness, because an
adapter on other weights may load and answer nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.errors import NotFoundError, RegistryError, UsageError
from registry.folders.receipts import Receipt, read_receipt
from registry.folders.scan import RECEIPT
from registry.reference import check_base_name
from registry.settings import Settings

_SNAPSHOT: Final = re.compile(
    r"models--(.+)--(.+?)"
)  # a folder of the Hub's cache, which vLLM names where it is offline


@dataclass(frozen=True)
class Served:
    """The base model whose adapters may be asked for; with ``wrong``, none of them is handed out, for that reason."""

    base: str | None
    wrong: str | None = None


def served_base(model: str, settings: Settings, environ: Mapping[str, str]) -> Served:
    """What an engine serves that was started with ``model``, a repo id or a folder."""
    said = settings.vllm_base
    receipt = _receipt(model)
    found, merged = _of_view(model, settings, environ)
    if receipt is not None:
        found, merged = receipt.base, receipt.reference if receipt.lineage else None
    base = said or found
    if said is not None and found is not None and said != found:
        return Served(said, f"REGISTRY_VLLM_BASE is {said}, but vLLM serves {model}, which is of {found}; correct one.")
    if merged is not None:
        return Served(
            base,
            f"vLLM serves {model}, which is {merged} merged, and an adapter composed from the base up would add the "
            f"same deltas again; serve the base model {base}.",
        )
    return Served(base)


def _receipt(model: str) -> Receipt | None:
    """The receipt of a model that ``registry fetch`` wrote."""
    folder = Path(model)
    try:
        return read_receipt(folder) if (folder / RECEIPT).is_file() else None
    except NotFoundError:  # it went meanwhile
        return None


def _of_view(model: str, settings: Settings, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Base, and path where it is merged, of a repo of the registry's Hub view."""
    snapshot = next((match for part in Path(model).parts if (match := _SNAPSHOT.fullmatch(part))), None)
    owner, _, name = model.partition("/") if snapshot is None else (snapshot[1], "/", snapshot[2])
    try:
        check_base_name(owner)
    except UsageError:
        return None, None
    if name == "_":
        return owner, None
    hub = environ.get("HF_ENDPOINT", "")
    if settings.url and settings.url.startswith("http") and hub.startswith(settings.url.rstrip("/") + "/"):
        return owner, f"{owner}/{name.replace('.', '/')}"
    return None, None


def untied(model: str) -> RegistryError:
    """What to say where nothing ties the engine to a base model."""
    return UsageError(
        f"vLLM serves {model}, and nothing says which base model of the registry that is, so that no adapter of it is "
        "handed out; set REGISTRY_VLLM_BASE to its name."
    )
