"""Commands that add: base add, and publish of a folder, a nested one, or what waits of a training run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from registry import errors
from registry.cli import completion
from registry.cli.exit_codes import NONE, SOME, exit_code
from registry.cli.options import (
    Annotations,
    Json,
    Metrics,
    Ref,
    Timeout,
    Url,
    Wait,
    pairs,
    parse_annotations,
    parse_metrics,
    parse_strict,
    parse_timeout,
)
from registry.cli.render.screen import Line
from registry.cli.session import Session, session
from registry.errors import RegistryError, UsageError
from registry.figures import (
    BEHIND,
    GONE,
    QUIET,
    Cell,
    Span,
    amount,
    command,
    counted,
    phrase,
    quiet,
    ranked,
    reference,
    size,
    words,
)
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.schemas import FolderOutcome, LeftOut, Published, Tagged
    from registry.schemas.frames import Block


def publish_rest(run: Session, folder: str, parent: str | None) -> None:
    """Publish what waits of a training run.

    Raises:
        RegistryError: of the first that is refused, after all were tried.
    """
    from registry.training.sending import publish_waiting

    problems: list[RegistryError] = []

    def refused(place: Path, problem: RegistryError) -> None:
        problems.append(problem)
        run.say(f"not published: {place}: {problem}", GONE)

    revisions = publish_waiting(run.registry, Path(folder), parent=parent, refused=refused)
    run.answer(revisions, lambda _: [(reference(one.reference),) for one in revisions])
    if problems:
        raise problems[0]
    if not revisions:
        run.say(f"Nothing waits in {folder}.")


_BAD: Final = ("refused", "blocked")
_STATES: Final = {
    "planned": "would be published",
    "published": "published",
    "existing": "already published",
    "refused": "refused",
    "blocked": "not published because its parent was not",
    "skipped": "skipped",
}


def parse_renames(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse ``OLD=NEW`` options.

    Raises:
        UsageError: one has no name or no ``=``, or a folder is given two names.
    """
    return pairs("--rename", "OLD=NEW", "support/French=french", texts)


def publish_folders(
    run: Session,
    folder: str,
    base: str,
    *,
    rename: dict[str, str],
    parent: str | None,
    strict: bool | tuple[str, ...],
    keep_going: bool,
    dry_run: bool,
) -> None:
    """Publish a nested folder or the checkpoints of a training, or report what would be published.

    Raises:
        RegistryError: of the first folder that fails, without ``keep_going`` and ``dry_run``.
        typer.Exit: with ``keep_going``, not all were published; with ``dry_run``, publishing would end with this code.
    """
    each = keep_going or dry_run

    def told(outcome: FolderOutcome) -> None:
        if run.as_json and each:
            run.progress.pause()
            sys.stdout.write(json.dumps(outcome.model_dump(mode="json"), allow_nan=False) + "\n")
            sys.stdout.flush()
        elif not run.as_json and not dry_run:
            _tell(run, outcome)

    outcomes = run.registry.publish_folders(
        folder,
        base,
        rename=rename,
        parent=parent,
        strict=strict,
        keep_going=keep_going,
        dry_run=dry_run,
        told=told,
        progress=run.progress,
    )
    if run.as_json and not each:
        run.answer([outcome.published for outcome in outcomes if outcome.published is not None], lambda _: ())
    elif not run.as_json and dry_run:
        run.show([outcomes_block(outcomes)])
    if each:
        run.say(_summary(outcomes))
    if status := _status(outcomes, keep_going=keep_going):
        raise typer.Exit(status)


def _tell(run: Session, outcome: FolderOutcome) -> None:
    """Report one folder when it is done, so that an interrupted run has reported what it did."""
    answer = outcome.published
    if answer is None:
        code = f" ({outcome.code})" if outcome.code else ""
        style = GONE if outcome.state in _BAD else "dim"
        run.say(f"{_STATES[outcome.state]}: {outcome.folder}{code}: {outcome.message}", style)
        return
    run.show([(reference(answer.revision.reference),)])
    state = "published" if answer.created else "was already published"
    run.say(f"{answer.revision.reference} {state}, parent {_parent(answer)}")
    for item in _left_out(answer.left_out):
        run.say(f"left out: {item.path} ({item.reason})")
    run.notices((*map(str, answer.notices), *outcome.notices))


def _left_out(items: Sequence[LeftOut]) -> Iterator[LeftOut]:
    """What was left out of a folder and has no outcome of its own."""
    from registry.folders.scan import ANOTHER_ADAPTER, ONLY_CHECKPOINTS

    return (item for item in items if item.reason not in (ANOTHER_ADAPTER, ONLY_CHECKPOINTS))


def outcomes_block(outcomes: Sequence[FolderOutcome]) -> Block:
    """One row per folder: where it goes, and what would happen to it."""
    from registry.schemas.frames import Block

    rows = [
        (phrase(one.folder), reference(one.path or "-"), Span(one.state, _style(one)), _about(one)) for one in outcomes
    ]
    return Block(None, rows, ("FOLDER", "PATH", "STATE", "DETAILS"), indent=0)


def _style(outcome: FolderOutcome) -> str:
    return GONE if outcome.state in _BAD else QUIET if outcome.state == "skipped" else ""


def _about(outcome: FolderOutcome) -> Cell:
    preview = outcome.preview
    if preview is None:
        return Span(outcome.code or "", GONE), outcome.message
    return [
        ranked(preview.rank),
        Span(size(preview.size)),
        quiet(f"{amount(preview.parameters)} parameters"),
        f"parent {preview.parent}, {level_of(preview.parent_known_by)} ({preview.parent_reason})",
        quiet(f"as {preview.reference}" if preview.reference else ""),
        *(quiet(f"left out {item.path} ({item.reason})") for item in _left_out(preview.left_out)),
        *(words(notice, BEHIND) for notice in (*preview.notices, *outcome.notices)),
    ]


def _summary(outcomes: Sequence[FolderOutcome]) -> str:
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in _STATES}
    parts = [f"{count} {_STATES[state]}" for state, count in counts.items() if count]
    return f"{counted(len(outcomes), 'folder')}: {', '.join(parts)}."


def _status(outcomes: Sequence[FolderOutcome], *, keep_going: bool) -> int:
    """The exit code; 0 if every publish folder was published, or would be."""
    bad = [outcome for outcome in outcomes if outcome.state in _BAD]
    if not bad:
        return 0
    if keep_going:
        return SOME if any(outcome.state in ("planned", "published", "existing") for outcome in outcomes) else NONE
    kind = next((getattr(errors, outcome.kind) for outcome in bad if outcome.kind), RegistryError)
    return exit_code(kind("a folder is refused"))


def _parent(answer: Published) -> str:
    return f"{answer.revision.parent}, {level_of(answer.revision.parent_known_by)} ({answer.parent_reason})"


def base_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the base model.")],
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder with its weights and configuration, or hf:ORG/REPO[@REV].")
    ],
    *,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Of a pipeline's weights: fp16. By default the files without one."),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Store hard links to the files instead of copies (same file system only).")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add a base model from a folder, or from a Hub.

    The folder must be in the Hugging Face layout: config.json and safetensors files, with an index if there are
    several. Adding the same weights again under the same name changes nothing. hf:ORG/REPO[@REV] is downloaded from
    the Hub at HF_ENDPOINT, with HF_TOKEN. A pipeline of diffusers (model_index.json and a folder for each component)
    is one base model.
    """
    from registry.cli.render.results import base_added

    with session(url, as_json, create=True) as run:
        answer = run.registry.add_base(name, folder, link=link, variant=variant, progress=run.progress)
        run.answer(answer, base_added)
        run.notices(answer.base.notices)


def publish(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="The folder that PEFT saved the adapter to, its archive, or hf:ORG/REPO[@REV]."
        ),
    ],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="The path of the adapter: BASE/name/name... With -r: BASE, or the path that checkpoints become "
            "revisions of. With --resume: none.",
            autocompletion=completion.paths,
        ),
    ] = None,
    *,
    recursive: Annotated[
        bool,
        typer.Option(
            "-r",
            "--recursive",
            help="Publish all adapters nested in DIR; their nesting gives the paths. With a path below a base model: "
            "the checkpoints in DIR, the output of one training, become its revisions.",
        ),
    ] = False,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent",
            metavar="REF",
            help="The revision it was trained on.",
            autocompletion=completion.references,
        ),
    ] = None,
    receipt: Annotated[
        str | None, typer.Option("--receipt", metavar="FILE", help="The receipt of the folder it was trained on.")
    ] = None,
    skip_parent_check: Annotated[
        bool,
        typer.Option(
            "--skip-parent-check",
            help="Trust --parent without comparing it with the weights the adapter was trained on.",
        ),
    ] = False,
    find_parent: Annotated[
        bool,
        typer.Option(
            "--find-parent",
            help="Search all revisions for the parent, by the weights it was trained on; prove it, or refuse.",
        ),
    ] = False,
    look_in: Annotated[
        list[str] | None,
        typer.Option(
            "--look-in",
            metavar="DIR",
            help="With --find-parent: where the folder it was trained on may be now; may be repeated.",
        ),
    ] = None,
    sampled: Annotated[
        bool,
        typer.Option(
            "--sampled",
            help="Compare samples of the folder it was trained on, not all of it: the parent is stated, not proven.",
        ),
    ] = False,
    trained_quantised: Annotated[
        str | None,
        typer.Option(
            "--trained-quantised",
            metavar="HOW",
            help="It was trained on weights in 4 bits: nf4 or fp4, [:BLOCK[:double]], such as nf4:64:double.",
        ),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option("--component", metavar="NAME", help="Of a pipeline: which a LoRA file was trained on."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="DIR holds a full fine-tune: keep it exactly, or as the LoRA of --rank or --max-error."
        ),
    ] = False,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="With --full: the rank of every pair.")
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="E",
            help="With --full: the lowest ranks with which no module's relative error exceeds E.",
        ),
    ] = None,
    svd: Annotated[
        str,
        typer.Option("--svd", metavar="HOW", help="With --full: randomised (within 1 % of the best), or full."),
    ] = "randomised",
    message: Annotated[
        str, typer.Option("-m", "--message", metavar="TEXT", help="A description of this revision.")
    ] = "",
    metric: Metrics = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag to set; may be repeated.")
    ] = None,
    annotation: Annotations = None,
    strict: Annotated[
        str | None,
        typer.Option(
            "--strict", metavar="[=CODE,...]", help="Refuse it if there are notices about its weights: any, or CODE."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be published; store nothing.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="With -r: publish every folder that can be published, and report the rest."),
    ] = False,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--rename", metavar="OLD=NEW", help="With -r: publish the folder OLD as the adapter NEW; may be repeated."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="DIR is the output of a training: publish what its callback could not."),
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Publish a folder as the next revision of an adapter.

    The parent is the one given with --parent; else the one in a receipt (--receipt, or that of the folder the adapter
    was trained on); else the one given by the repo id and revision of a Hub view in the configuration. If the folder
    it was trained on is available, all of its weights are compared with the parent's, and can also identify the parent;
    a folder that is newer than the adapter proves nothing. If
    nothing identifies it and the parent adapter has a single revision, that one is used and recorded as assumed. With
    --find-parent the weights of that folder are compared with all revisions, and nothing is assumed. With --full, DIR
    is a full model, which is kept exactly, or with --rank or --max-error as the adapter that is nearest to it. The
    first line of the output is the reference PATH@N alone. With --resume, DIR is the output folder of a training with a
    RegistryCallback, and what waits there is published.
    """
    if parent is not None and receipt is not None:
        raise UsageError("--parent and --receipt both name the parent; give one of them.")
    if parent is not None and find_parent:
        raise UsageError("--parent names the parent, and --find-parent searches for it; give one of them.")
    metrics, annotations = parse_metrics(metric), parse_annotations(annotation)
    given = {
        "--receipt": receipt, "--skip-parent-check": skip_parent_check,
        "--find-parent": find_parent, "--look-in": look_in, "--sampled": sampled,
        "--trained-quantised": trained_quantised, "--component": component, "--full": full, "--rank": rank,
        "--max-error": max_error, "-m": message,
        "--metric": metric, "--tag": tag, "--annotation": annotation,
    }  # fmt: skip
    if resume:
        given |= {"-r": recursive, "--strict": strict, "--dry-run": dry_run, "--keep-going": keep_going,
                  "--rename": rename, "PATH": path}  # fmt: skip
        if wrong := [option for option, value in given.items() if value]:
            raise UsageError(f"{wrong[0]} can't be given with --resume: what waits has its path and its words with it.")
        with session(url, as_json) as run:
            publish_rest(run, folder, parent)
        return
    if path is None:
        missing, form = ("BASE", "-r DIR BASE") if recursive else ("PATH", "DIR PATH")
        raise UsageError(
            f"Missing argument {missing!r}. `registry publish {form}` is expected. See: registry publish --help"
        )
    if recursive:
        if wrong := [option for option, value in given.items() if value]:
            raise UsageError(f"{wrong[0]} applies to one revision and can't be given with -r.")
    elif keep_going or rename:
        raise UsageError(f"{'--keep-going' if keep_going else '--rename'} is for nested folders: give -r too.")
    with session(url, as_json) as run:
        if recursive:
            publish_folders(
                run,
                folder,
                path,
                rename=parse_renames(rename),
                parent=parent,
                strict=parse_strict(strict),
                keep_going=keep_going,
                dry_run=dry_run,
            )
            return
        _publish_one(
            run,
            folder,
            path,
            dry_run=dry_run,
            parent=parent,
            receipt=receipt,
            skip_parent_check=skip_parent_check,
            find_parent=find_parent,
            look_in=tuple(look_in or ()),
            sampled=sampled,
            trained_quantised=trained_quantised,
            component=component,
            full=full,
            rank=rank,
            max_error=max_error,
            svd=svd,
            message=message,
            metrics=metrics,
            tags=tuple(tag or ()),
            annotations=annotations,
            strict=parse_strict(strict),
        )


def _publish_one(run: Session, folder: str, path: str, *, dry_run: bool, **options: Any) -> None:
    from registry.cli.render.results import preview, published

    if dry_run:
        planned = run.registry.preview(folder, path, **options, progress=run.progress)
        run.answer(planned, preview)
        run.notices(planned.notices)
        return
    answer = run.registry.publish(folder, path, **options, progress=run.progress)
    run.answer(answer, published)
    if "message" in answer.not_applied:
        run.say(f"`registry annotate {answer.revision.reference} -m TEXT` changes its message.")
    run.notices(map(str, answer.notices))
    words = ("registry", "fetch", answer.revision.reference, "--as", "merged", "-o", "DIR")
    run.next(words, "writes the model to serve or train on")


def tag(
    ref: Ref,
    tag: Annotated[str | None, typer.Argument(metavar="TAG", help="The tag.", autocompletion=completion.tags)] = None,
    *,
    expected: Annotated[
        str | None,
        typer.Option("--if", metavar="REV", help="Only if the tag points at this revision now: @3, or none."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Point the tag of the adapter REF at what it pointed at before.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Point a tag at a revision.

    A tag that points at another revision of the same adapter is moved. Without TAG, the tags at and under the path REF
    are listed, as by `registry tags`.

    With --wait, the command returns once every follower that lives serves what the tag points at now. If one fails, is
    lost or takes longer than --timeout, it is named with its reason, and the exit code is 9. The tag stays where it is.
    """
    seconds = parse_timeout(timeout, wait=wait)
    if tag is None:
        if "@" in ref or undo or wait or expected is not None:
            raise UsageError(f"The tag is missing: {command('registry', 'tag', ref, 'TAG')} is expected.")
        from registry.cli.table import TAGS

        TAGS.command()(path=ref, url=url, as_json=as_json)
        return
    with session(url, as_json) as run:
        answer = run.registry.tag(ref, tag, expected=expected, undo=undo)
        if answer.reference is None:
            run.answer(answer, removed)
        else:
            run.answer(answer, lambda _: [_tag_line(answer, f"-> {answer.reference}")])
        if answer.reference is not None and answer.previous not in {None, answer.reference}:
            run.say(f"The tag pointed at {answer.previous} before.")
        if wait:
            from registry.cli.commands.running import wait_for_tag

            wait_for_tag(run, answer, seconds)


def removed(answer: Tagged) -> list[Line]:
    """The tag, and what it pointed at."""
    return [_tag_line(answer, f"removed, was {answer.previous}")]


def _tag_line(answer: Tagged, what: str) -> Line:
    return (reference(f"{answer.path}@{answer.tag}"), Span(f" {what}"))


def annotate(
    ref: Ref,
    *,
    message: Annotated[
        str | None,
        typer.Option("-m", "--message", metavar="TEXT", help="The new message, which replaces the current one."),
    ] = None,
    metric: Metrics = None,
    annotation: Annotations = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="NAME", help="Remove the metric or annotation NAME; may be repeated."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change metrics, annotations and the message."""
    from registry.schemas.tree import REVISIONS

    if not metric and not annotation and not unset and message is None:
        raise UsageError(
            "annotate needs at least one --metric NAME=NUMBER, --annotation NAME=TEXT, --unset NAME or -m TEXT."
        )
    with session(url, as_json) as run:
        answer = run.registry.annotate(
            ref,
            metrics=parse_metrics(metric),
            annotations=parse_annotations(annotation),
            message=message,
            unset=tuple(unset or ()),
        )
        run.answer(answer, lambda one: [REVISIONS.block([one])])
