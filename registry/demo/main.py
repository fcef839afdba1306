"""The demo from end to end: train and publish a tree, look at it, fetch its deepest path, compare with PEFT."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from registry.demo.links import BASE, DEEPEST, LINKS, Link
from registry.demo.needs import bundled_base_model
from registry.demo.report import Report
from registry.demo.texts import load_task
from registry.errors import NotFoundError

if TYPE_CHECKING:
    from registry.demo.check import Check
    from registry.demo.training import Recipe
    from registry.schemas import RevisionSummary
    from registry.services.protocol import Registry

DEFAULT_FOLDER: Final = "demo-registry"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    revisions: tuple[RevisionSummary, ...]  # parents first
    trained: tuple[str, ...]  # paths that this run trained; the others were published already
    check: Check
    commands: tuple[str, ...]


def run(registry: Registry, report: Report, *, base: Path | None = None, recipe: Recipe | None = None) -> Outcome:
    """Train and publish what is not published yet, then show and check the whole.

    ``base`` is a BERT to take instead of the bundled model, ``recipe`` another way to train.

    Raises:
        UnavailableError: a package of the demo is missing.
        ConflictError: the registry has another base model under the demo's name.
    """
    base = base or bundled_base_model()
    report.say("Loading torch, transformers and PEFT.")
    from registry.demo.training import Recipe

    # Nothing in here is needed later: the registry keeps all that matters.
    with TemporaryDirectory(prefix="registry-demo-") as work:
        return _Run(registry, report, base, recipe or Recipe(), Path(work)).all()


@dataclass(frozen=True)
class _Run:
    registry: Registry
    report: Report
    base: Path
    recipe: Recipe
    work: Path

    def all(self) -> Outcome:
        report = self.report
        report.heading("A base model, and adapters trained one on top of another")
        self.add_base()
        trained = tuple([link.path for link in LINKS if self.ensure_published(link)])

        report.heading("The tree")
        report.tree(self.registry.tree(BASE))
        report.heading("The lineage of its deepest adapter")
        report.lineage(self.registry.resolve(DEEPEST.path))

        report.heading("The weights of that lineage, and PEFT's own for comparison")
        check = self.check()
        report.heading("Five commands to try next")
        commands = next_commands(self.registry.url)
        report.lines(commands)
        revisions = tuple([self.newest(link.path) for link in LINKS])
        return Outcome(revisions, trained, check, commands)

    def add_base(self) -> None:
        added = self.registry.add_base(BASE, self.base, progress=self.report.transfers)
        state = "added" if added.created else "is there already"
        self.report.say(f"{BASE}: {added.base.parameters / 1e6:.1f} million parameters, {state} in {added.registry}.")

    def ensure_published(self, link: Link) -> bool:
        """Train and publish a link, unless an earlier run did; answers whether it was trained now."""
        try:
            revision = self.newest(link.path)
        except NotFoundError:
            revision, reason = self.train_and_publish(link)
            trained = True
        else:
            reason, trained = "published by an earlier run", False
        self.report.say(f"{revision.reference}: {link.message} On top of {revision.parent} ({reason}).")
        held_out = len(load_task(link.task).held_out.texts)
        if {"accuracy", "accuracy_parent"} <= revision.metrics.keys():
            self.report.lines(
                [
                    f"    right on {held_out} held-out texts: {revision.metrics['accuracy_parent']:.0%} without this link,"
                    f" {revision.metrics['accuracy']:.0%} with it"
                ]
            )
        return trained

    def train_and_publish(self, link: Link) -> tuple[RevisionSummary, str]:
        """Train a link on the parent's merged weights; answers its revision and why it has that parent."""
        from registry.demo.encoder import accuracy, load_encoder
        from registry.demo.training import save_link, train_link

        task, steps = load_task(link.task), self.report.steps
        merged = self.registry.fetch(
            link.parent, self.work / link.parent.replace("/", "."), kind="merged", progress=self.report.transfers
        )
        parent = load_encoder(Path(merged.folder))
        before = accuracy(parent, task)
        steps.begin(f"Training {link.path}", self.recipe.steps)
        trained = train_link(parent, link, task.train, self.recipe, lambda: steps.advance(1))
        folder = self.work / f"trained-{link.task}"
        save_link(trained, folder)
        # No parent is given: the receipt in the folder that the link was trained on names it.
        published = self.registry.publish(
            folder,
            link.path,
            message=link.message,
            metrics={"accuracy": accuracy(trained, task), "accuracy_parent": before},
            progress=self.report.transfers,
        )
        return published.revision, published.parent_reason

    def check(self) -> Check:
        from registry.demo.check import check_path

        texts = load_task(DEEPEST.task).held_out.texts
        resolved = self.registry.resolve(DEEPEST.path)
        check = check_path(self.registry, resolved, self.base, texts, self.work, self.report.transfers)
        self.report.say(
            f"{resolved.reference} fetched as one LoRA and as a merged model, beside what PEFT makes of the published"
            f" adapters step by step; the largest differences of any weight and of any embedding of {len(texts)} texts:"
        )
        self.report.lines(check.table())
        return check

    def newest(self, path: str) -> RevisionSummary:
        revision = self.registry.show(path).revision
        assert revision is not None, f"{path} names an adapter"
        return revision


def next_commands(url: str) -> tuple[str, ...]:
    """Commands that work on the registry that the demo left behind, from the current folder."""
    place = f"--url {shlex.quote(_short(url))}"
    merged = f"{DEEPEST.task}-merged"
    return (
        f"registry log {DEEPEST.path} {place}",
        f"registry show {DEEPEST.path} {place}",
        f"registry search --metric 'accuracy>0.8' {place}",
        f"registry fetch {DEEPEST.path} --as merged -o {merged} {place}",
        f"registry verify {merged} {place}",
    )


def _short(url: str) -> str:
    """The registry's folder as seen from here, where that is shorter."""
    return min(url, os.path.relpath(url), key=len) if Path(url).is_absolute() else url
