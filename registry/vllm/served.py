"""Determines which base model of the registry an engine serves.

vLLM gives a resolver the name of its model and nothing about the weights, so they are matched by name: the setting, or
the repo id or receipt that shows that the model came from the registry. Similarity is no criterion, because an adapter
on other weights may load and generate nonsense.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.client.addresses import Address
from registry.digest import is_digest
from registry.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from registry.folders.local_files import reason
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.reference import Path as TreePath
from registry.schemas.receipt import Receipt
from registry.settings import Settings

_SNAPSHOT: Final = re.compile(r"models--(.+)--(.+)")  # the folder of a repo in the Hub's cache


@dataclass(frozen=True)
class Served:
    """The base model whose adapters may be requested; with ``wrong``, all are denied for that reason."""

    base: str | None
    wrong: str | None = None


def served_base(model: str, settings: Settings, environ: Mapping[str, str]) -> Served:
    """The base model of an engine that was started with ``model``, a repo id or a folder."""
    said = settings.vllm_base
    found, merged = _of_view(model, settings, environ)
    try:
        receipt = _receipt(model)
    except RegistryError as problem:
        return Served(said or found, str(problem))
    if receipt is not None:
        found = found if is_digest(receipt.base) else receipt.base  # an export may name nothing
        merged = receipt.reference if receipt.lineage else None
    base = said or found
    if said is not None and found is not None and said != found:
        return Served(
            said,
            f"REGISTRY_VLLM_BASE is {said}, but vLLM serves {model}, which belongs to {found}; correct one of them.",
        )
    if merged is not None:
        return Served(
            base,
            f"vLLM serves {model}, which is {merged} merged, so an adapter composed from the base up would add the "
            f"same deltas again; serve the base model{f' {base}, whose repo id is {base}/_' if base else ''}.",
        )
    return Served(base)


def _receipt(model: str) -> Receipt | None:
    """The receipt of a model that ``registry fetch`` wrote.

    Raises:
        IntegrityError: it is not one, or can't be read.
    """
    folder = Path(model)
    try:
        return read_receipt(folder) if (folder / RECEIPT).is_file() else None
    except NotFoundError:  # it was removed meanwhile
        return None
    except OSError as problem:
        raise IntegrityError(
            f"It can't be determined whether {model} has a receipt: {reason(problem)}; make the folder readable."
        ) from problem


def _of_view(model: str, settings: Settings, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The base of a repo of the registry's Hub view, and its path if merged.

    A repo id of the base that the setting names counts whatever HF_ENDPOINT is: the setting says that vLLM works with
    this registry, and the Hub's cache does not record where a repo came from.
    """
    path = _tree_path(model)
    if path is None:
        return None, None
    if path.is_base:
        return path.base, None
    if path.base == settings.vllm_base or _is_view(environ.get("HF_ENDPOINT", ""), settings.url or ""):
        return path.base, str(path)
    return None, None


def _tree_path(model: str) -> TreePath | None:
    """The path of a model whose name can be a repo id of the Hub view."""
    for repo_id in _repo_ids(model):
        try:
            return TreePath.of_repo_id(repo_id)
        except UsageError:
            continue
    return None


def _repo_ids(model: str) -> Iterator[str]:
    """Candidate repo ids: of the Hub cache's snapshot that the path is (offline) or links to, then the name.

    In this order, because a path of two parts can pass for the id of another repo.
    """
    leads_to = os.path.realpath(model) if os.path.isdir(model) else ""  # noqa: PTH112 - of Path it raises errors
    for part in (*Path(model).parts, *Path(leads_to).parts):
        if match := _SNAPSHOT.fullmatch(part):
            yield f"{match[1]}/{match[2]}"
    yield model.rstrip("/")


def _is_view(endpoint: str, url: str) -> bool:
    """Whether HF_ENDPOINT of this process is a view of the registry at ``url``."""
    try:
        return Address.parse(endpoint).url.startswith(Address.parse(url).url + "/")
    except UsageError:  # none, or a folder
        return False


def untied(model: str) -> RegistryError:
    """The error if nothing shows which base model the engine serves."""
    return UsageError(
        f"vLLM serves {model}, but it is not known which base model of the registry that is, so no adapters are "
        "available; set REGISTRY_VLLM_BASE to its name."
    )
