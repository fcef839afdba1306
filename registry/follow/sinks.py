"""Sinks: the places that a follower brings revisions to, behind one protocol.

A sink is the state: a follower remembers nothing that counts, and asks the sink what is there in every round. Started
again, or on another machine, it goes on with what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import IntegrityError
from registry.operations.registry import Registry
from registry.progress import Progress
from registry.schemas import Fetched
from registry.schemas.followed import Where
from registry.schemas.form import EngineName


@dataclass(frozen=True)
class Form:
    """As what revisions are brought: by default the composed adapter of each."""

    engine: EngineName | None = None
    max_lora_rank: int | None = None
    max_error: float | None = None
    uniform: bool = False


class Sink(Protocol):
    """What a follower needs of a place. A method that raises a `RegistryError` changed nothing that is served."""

    def opened(self) -> AbstractContextManager[None]:
        """The place, repaired and for this follower alone; raises `ConflictError` where another one has it."""

    def there(self) -> Mapping[str, str]:
        """Each followed name there with the reference ``PATH@N`` that it leads to; empty where it leads to nothing."""

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """Whether a name leads to this revision in this form."""

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """Bring a revision beside the others, checked against its digests; returns whether it had to be written."""

    def point(self, name: str, where: Where, form: Form) -> None:
        """Let a name lead to what was brought, in one step."""

    def drop(self, name: str) -> None:
        """Let a name lead nowhere; what it led to stays for its readers."""

    def sweep(self, now: float, keep_for: float) -> list[str]:
        """Remove what no name led to for ``keep_for`` seconds; returns its references."""


def fetched(registry: Registry, where: Where, form: Form, out: Path | None, progress: Progress) -> Fetched:
    """A revision in a form, in a folder or in the cache, checked to be the one that was asked for.

    Raises:
        IntegrityError: another revision came; nothing may be switched to it.
        RegistryError: of ``fetch``.
    """
    answer = registry.fetch(
        str(where.reference),
        out,
        engine=form.engine,
        max_lora_rank=form.max_lora_rank,
        max_error=form.max_error,
        uniform=form.uniform,
        progress=progress,
    )
    if answer.reference != where.reference:
        raise IntegrityError(f"{where.reference} was asked for, and {answer.reference} came; nothing is switched.")
    return answer


def flat(name: str) -> str:
    """``llama/support@prod`` as ``llama--support@prod``: names of adapters have no ``--``, so no two of them meet."""
    path, at, selector = name.partition("@")
    return f"{path.replace('/', '--')}{at}{selector}"


def deep(name: str) -> str:
    """The name that `flat` was given."""
    path, at, selector = name.partition("@")
    return f"{path.replace('--', '/')}{at}{selector}"
