"""The commands identify and import: what a folder is made of, and a heap of them, planned and then brought in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.bars import is_terminal
from registry.cli.exit_codes import NONE, SOME
from registry.cli.options import Json, Url
from registry.cli.session import session
from registry.errors import UsageError
from registry.figures import counted
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.cli.session import Session
    from registry.progress import Progress
    from registry.schemas import FolderOutcome


def identify(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A merged model, or an adapter; a folder or its archive.")
    ],
    *,
    look_in: Annotated[
        list[str] | None,
        typer.Option(
            "--look-in",
            metavar="DIR",
            help="Of an adapter: where the folder it was trained on may be now; may be repeated.",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell which base model and revisions a folder is made of.

    Every revision that you see is searched. Of a merged model it says which path it is, in which order the links were
    merged, or what is nearest and how much no revision explains. Of an adapter it says which base models it fits, and
    what the folder is that it was trained on.
    """
    from registry.cli.render.results import identified

    with session(url, as_json) as run:
        answer = run.registry.identify(folder, look_in=tuple(look_in or ()), progress=run.progress)
        run.answer(answer, identified)


def import_(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="With --plan: the folder or archive to look through, or hf:ORG."),
    ] = None,
    *,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="FILE", help="Write what would come in, and change nothing.")
    ] = None,
    apply: Annotated[
        str | None, typer.Option("--apply", metavar="FILE", help="Do what the plan in FILE says, maybe edited.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Bring in a heap of folders: plan it, then apply the plan.

    With --plan, every adapter, merged model and base model below SOURCE is tried in a registry that is thrown away:
    parents are proven by the weights, or undecided, with the nearest candidates. The plan is a file to read and to
    edit. --apply does exactly what it says, parents first; what has changed since is refused, and a second run goes on
    where the first was stopped.
    """
    if (plan is None) == (apply is None):
        raise UsageError("Give --plan FILE to write a plan of SOURCE, or --apply FILE to do what a plan says.")
    if plan is not None and source is None:
        raise UsageError("--plan FILE needs the folder to look through: registry import SOURCE --plan FILE.")
    if apply is not None and source is not None:
        raise UsageError("--apply FILE takes no SOURCE: the plan says which folder it was made of.")
    with session(url, as_json, create=True) as run:
        if plan is not None:
            _plan(run, source or "", plan)
        else:
            _apply(run, apply or "")


def _plan(run: Session, source: str, file: str) -> None:
    from registry.cli.options import check_file
    from registry.cli.render.results import import_plan
    from registry.operations.import_plan import require_new, summary

    check_file("--plan", file)
    require_new(Path(file))
    made = run.registry.plan_import(source, progress=_progress(run))
    made.write(file)
    run.notices(made.document.notices)
    run.answer(made.document, import_plan)
    for one in made.document.questions:
        say = counted(len(one.folders), "adapter says that it was", "adapters say that they were")
        notice = (
            f"{say} trained on {one.repo_id}, and no base model here has that name. If it is "
            f"{' or '.join(one.candidates)}, set base to that in the questions of {file}."
        )
        run.notices((notice,))
    run.say(f"{file}: {summary(made.document)}.")
    if any(one.action in ("add", "publish", "full") for one in made.entries):
        run.next(("registry", "import", "--apply", file), "brings that in")


def _progress(run: Session) -> Progress | bool:
    """A bar on a terminal; elsewhere a line every ten seconds, since a heap takes minutes."""
    return run.progress if is_terminal() else True


def _apply(run: Session, file: str) -> None:
    from registry.operations.import_plan import read_document

    document = read_document(Path(file))
    outcomes = run.registry.apply_import(document, told=lambda outcome: _tell(run, outcome), progress=_progress(run))
    bad = [one for one in outcomes if one.state in ("refused", "blocked")]
    new = sum(one.state == "published" for one in outcomes)
    there = sum(one.state == "existing" for one in outcomes)
    run.say(f"{new} brought in, {there} there already, {len(bad)} not.")
    undecided = sum(one.action == "undecided" for one in document.entries)
    if undecided:
        run.say(f"{undecided} undecided in {file}: decide them there, and apply it again.")
    if bad:
        raise typer.Exit(SOME if new or there else NONE)


def _tell(run: Session, outcome: FolderOutcome) -> None:
    """Report one folder when it is done; one line of JSON each, so that an interrupted run has reported what it did."""
    from registry.figures import GONE, reference

    if run.as_json:
        run.progress.pause()
        sys.stdout.write(json.dumps(outcome.model_dump(mode="json"), allow_nan=False) + "\n")
        sys.stdout.flush()
        return
    if outcome.state in ("refused", "blocked"):
        code = f" ({outcome.code})" if outcome.code else ""
        run.say(f"{outcome.state}: {outcome.folder}{code}: {outcome.message}", GONE)
        return
    run.notices(outcome.notices)
    answer = outcome.published
    run.show([(reference(answer.revision.reference if answer else outcome.path),)])
    state = "is there already" if outcome.state == "existing" else "brought in"
    parent = f", parent {answer.revision.parent}, {level_of(answer.revision.parent_known_by)}" if answer else ""
    run.say(f"{outcome.folder} {state}{parent}")
    if answer is not None:
        run.notices(map(str, answer.notices))
