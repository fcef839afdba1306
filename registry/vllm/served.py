"""Which base model an engine serves, and what the names mean that its clients request as ``model``.

vLLM gives a resolver the name of its model and nothing about the weights, so they are matched by name: the setting, or
the repo id or receipt that shows that the model came from the registry. Similarity is no criterion, because an adapter
on other weights may load and generate nonsense.

A name identifies the revision and the bytes: ``llama/support/french#3-<32 hex of the rendering>``. All requested forms,
a tag, a number or a digest, that resolve to the same share one adapter in vLLM. Its prefix cache is keyed by the name,
so after a tag has moved, no cached block of its former target is used. The name is returned as ``model`` and listed in
``/v1/models``; requesting it gives exactly that revision and those bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.client.addresses import Address
from registry.digest import hex_of, is_digest
from registry.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from registry.folders.local_files import reason
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas.receipt import Receipt
from registry.settings import Settings

DIGITS: Final = 32  # hex digits of a rendering in a name: 128 bits
_GIVEN: Final = re.compile(rf"(.+)#([1-9][0-9]{{0,17}})-([0-9a-f]{{{DIGITS}}})(?:~[1-9][0-9]{{0,8}})?")
_LEAST: Final = 1 << 20  # vLLM counts up its own numbers below, for other adapters
_MOST: Final = 2**31 - 1  # vLLM keeps the numbers of adapters in arrays of 32 bits


@dataclass(frozen=True)
class Asked:
    """A requested name that may be one of the registry's."""

    text: str
    said: str  # the reference in it, as text
    reference: Reference
    rendering: str | None = None  # the digits, if the name identifies bytes

    @classmethod
    def parse(cls, text: str) -> Asked | None:
        """Parse a name; None if it is a base model's, which is no adapter.

        Raises:
            UsageError: it is no reference.
        """
        given = _GIVEN.fullmatch(text)
        said = given[1] if given else text
        reference = Reference.parse(said)
        if reference.path.is_base:
            return None
        if given is None:
            return cls(text, said, reference)
        return cls(text, said, Reference(reference.path, number=int(given[2])), given[3])


def base_of(text: str) -> str:
    """The base model that a malformed name begins with; empty unless something follows it."""
    base = re.split("[/@#]", text, maxsplit=1)[0]
    return "" if base == text else base


class Names:
    """Names and numbers of the adapters given to one vLLM process."""

    def __init__(self) -> None:
        self._numbers: dict[int, str] = {}  # number -> name
        self._lock = threading.Lock()

    def give(self, path: TreePath, revision: int, rendering: str) -> tuple[str, int]:
        """The name of these bytes of this revision, and its unique number.

        vLLM takes two requests with one name for the same adapter and activates only one of them, so a name always has
        the same number.
        """
        name = f"{path}#{revision}-{hex_of(rendering)[:DIGITS]}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (_MOST - _LEAST) + _LEAST
        with self._lock:
            while self._numbers.setdefault(number, name) != name:
                number = number + 1 if number < _MOST else _LEAST
        return name, number


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

    A repo id of the base that the setting names counts whatever HF_ENDPOINT is: the setting means that vLLM works with
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
