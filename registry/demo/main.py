"""The demo from end to end: train and publish a tree, look at it, fetch its deepest path, compare with PEFT."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, TypeVar

from registry.demo.links import BASE, DEEPEST, LINKS, Link
from registry.demo.needs import bundled_base_model
from registry.demo.report import Report
from registry.demo.texts import load_task
from registry.errors import NotFoundError

if TYPE_CHECKING:
    from registry.demo.peer import Difference
    from registry.demo.training import Recipe
    from registry.schemas import Resolved, RevisionSummary
    from registry.services.protocol import Registry

DEFAULT_FOLDER: Final = Path("demo-registry")
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    revisions: tuple[RevisionSummary, ...]
    trained: tuple[str, ...]  # paths that this run trained; the others were published already
    lora: Difference  # composed LoRA against PEFT's step-by-step merge
    merged: Difference
    commands: tuple[str, ...]


def run(registry: Registry, report: Report, *, base: Path | None = None, recipe: Recipe | None = None) -> Outcome:
    """Train what is not published yet, then show and check the whole.

    ``base`` is another folder than the bundled model's; ``recipe`` another way to train.

    Raises:
        UnavailableError: a package of the demo is missing.
        ConflictError: the registry has another base model under the demo's name.
    """
    base = base or bundled_base_model()
    report.say("Loading torch, transformers and PEFT.")
    from registry.demo.training import Recipe

    with TemporaryDirectory(prefix="registry-demo-") as work:
        demo = _Demo(registry, report, base, recipe or Recipe(), Path(work))
        return demo.run()


@dataclass(frozen=True)
class _Demo:
    registry: Registry
    report: Report
    base: Path
    recipe: Recipe
    work: Path  # removed at the end: the registry keeps all that matters

    def run(self) -> Outcome:
        self.report.heading("A base model and four adapters, each trained on its parent's merged weights")
        self._add_base()
        trained = tuple(link.path for link in LINKS if self._publish(link))
        self.report.heading("What the registry holds")
        self.report.tree(self.registry.tree(BASE))
        self.report.heading(f"What {DEEPEST.path} is made of")
        resolved = self.registry.resolve(DEEPEST.path)
        self.report.lineage(resolved)
        lora, merged = self._compare(resolved)
        commands = _next_commands(self.registry.url)
        self.report.heading("Five commands to try next")
        self.report.lines(commands)
        revisions = tuple(self.registry.show(link.path).revision for link in LINKS)
        return Outcome(tuple(filter(None, revisions)), trained, lora, merged, commands)
