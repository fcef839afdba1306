"""Commands that take weights out of the registry and check them: fetch, verify, export, and copy elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import (
    As,
    Json,
    MaxError,
    MaxLoraRank,
    Measured,
    MergedOnto,
    MinFidelity,
    Rank,
    Ref,
    Since,
    Uniform,
    Url,
    Weights,
    WrittenAs,
    check_file,
    write_file,
)
from registry.cli.render.results import fidelity_line, truncation_line
from registry.cli.session import Session, session
from registry.errors import IntegrityError, UsageError
from registry.figures import Span, counted, quiet, reference, size
from registry.schemas.form import EngineName

if TYPE_CHECKING:
    from registry.schemas import Copied, Verified
    from registry.schemas.frames import Block


def copy(
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="A revision: PATH, PATH@3, PATH@tag or PATH@sha256:...")
    ] = None,
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The other registry: a folder or an address.")],
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Copy all revisions at and under REF, which is a path.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Without REF: copy all base models with all their adapters.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Copy a revision, a subtree or everything to another registry.

    The lineage, the base model, tags, metrics and annotations are copied with it; authors and times too, if the token
    for the other registry is an admin's. Digests stay the same, and so do numbers that are not taken there. Only
    missing bytes are transferred; a copy that was interrupted continues where it stopped.
    """
    from registry.app import open_registry

    if everything and ref is not None:
        raise UsageError(f"--all copies everything; leave out {ref}, or leave out --all.")
    if ref is None and not everything:
        raise UsageError("copy needs REF, the revision or path to copy, or --all for everything.")
    with session(url, as_json) as run, closing(open_registry(to, create=True)) as target:
        if ref is not None:
            answer = run.registry.copy(ref, target, recursive=recursive, progress=run.progress)
            run.answer(answer, copied)
            _tell_of_copy(run, answer)
            if not answer.revisions and not recursive:
                run.say(f"Its adapters are copied with -r: `registry copy -r {ref} --to {to}`.")
            return
        answers = run.registry.copy_all(
            target, copied=lambda one: None if as_json else _show_copy(run, one), progress=run.progress
        )
        if as_json:
            run.answer(answers, lambda _: ())
        elif not answers:
            run.say(f"There are no base models in {run.registry.url}: nothing was copied.")


def _show_copy(run: Session, answer: Copied) -> None:
    """One base model of several, as soon as it is copied."""
    run.show(copied(answer))
    _tell_of_copy(run, answer)


def _tell_of_copy(run: Session, answer: Copied) -> None:
    new = sum(one.created for one in answer.revisions)
    base = f"the base model {answer.base} and " if answer.base_created else ""
    run.say(f"{base}{counted(new, 'new revision')}, {size(answer.bytes_copied)}, to {answer.target}")
    run.notices(answer.notices)


def copied(answer: Copied) -> Iterator[Block]:
    """One line per revision, parents first, by its reference in the target."""
    from registry.schemas.frames import Block

    rows = [
        (
            reference(one.reference),
            [
                "copied" if one.created else quiet("already present"),
                quiet("" if one.source == one.reference else f"from {one.source}"),
            ],
        )
        for one in answer.revisions
    ]
    yield Block(None, rows or [(reference(answer.base), None)], indent=0)


def fetch(
    ref: Ref,
    *,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="DIR", help="The folder to write to. Default: a folder in the cache."),
    ] = None,
    kind: As = "lora",
    since: Since = None,
    rank: Rank = None,
    max_error: MaxError = None,
    uniform: Uniform = False,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            "--for", help="Write what this engine loads, truncated only with --max-error; refused if there is none."
        ),
    ] = None,
    max_lora_rank: MaxLoraRank = None,
    report: Annotated[
        str | None,
        typer.Option("--report", metavar="FILE", help="Write the errors of truncation or merging to this JSON file."),
    ] = None,
    fidelity: Measured = "sample",
    dtype: WrittenAs = None,
    min_fidelity: MinFidelity = None,
    onto: MergedOnto = None,
    weight: Weights = None,
    base_dir: Annotated[
        str | None,
        typer.Option(
            "--base-dir",
            metavar="DIR",
            help="The base model's files on this machine; a service then sends only the adapters.",
        ),
    ] = None,
    dense_as_diff: Annotated[
        bool,
        typer.Option(
            "--dense-as-diff",
            help="For comfyui and forge: write the whole difference of what is no product of low rank, such as DoRA.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what an earlier fetch wrote to DIR, and only that.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write the weights of a reference into a folder.

    Prints the folder. A receipt beside the files records what was computed; if you train on the folder, publish finds
    the parent in it.
    """
    if report is not None and rank is None and max_error is None and kind != "merged":
        raise UsageError(
            "--report describes the errors of a truncation, or of merging; it needs --rank, --max-error or --as merged."
        )
    if report is not None:
        check_file("--report", report, out)
    with session(url, as_json) as run:
        answer = run.registry.fetch(
            ref,
            out,
            kind=kind,
            since=since,
            rank=rank,
            max_error=max_error,
            uniform=uniform,
            dtype=dtype,
            onto=onto,
            min_fidelity=min_fidelity,
            dense_as_diff=dense_as_diff,
            weights=",".join(weight or ()) or None,
            force=force,
            base_dir=base_dir,
            engine=engine,
            max_lora_rank=max_lora_rank,
            fidelity=fidelity,
            progress=run.progress,
        )
        run.answer(answer, lambda _width: [(Span(answer.folder),)])
        total = sum(file.size for file in answer.files)
        state = "written" if answer.fresh else "checked, already present"
        run.say(f"{answer.reference} as {answer.kind}: {counted(len(answer.files), 'file')}, {size(total)}, {state}")
        if answer.truncation is not None:
            run.say(truncation_line(answer.truncation))
        if answer.fidelity is not None:
            run.say(fidelity_line(answer.fidelity))
        if report is not None:
            found = answer.fidelity if answer.kind == "merged" else answer.truncation
            if found is None:
                done = "measured" if answer.kind == "merged" else "truncated"
                run.say(f"--report: nothing was {done}, so {report} is not written")
            else:
                write_file("--report", report, found.model_dump_json(indent=2) + "\n")
        run.notices(answer.notices)
        if answer.kind == "merged" and out is not None:
            path = answer.reference.partition("@")[0]
            words = ("registry", "publish", "OUT", f"{path}/NAME")
            run.next(words, f"publishes an adapter that was trained on {answer.folder}")
        elif out is not None:
            run.next(("registry", "verify", answer.folder), "computes it again and compares every byte")


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder that fetch wrote.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check a fetched folder, file by file and tensor by tensor.

    First against its receipt, then against the registry, which computes the weights again. What else lies in the folder
    is named, and refused where programs would load it with the weights.
    """
    from registry.cli.render.results import verification

    with session(url, as_json) as run:
        answer = run.registry.verify(folder, progress=run.progress)
        run.answer(answer, verification)
        if answer.fidelity is not None:
            run.say(fidelity_line(answer.fidelity))
        if not answer.equal:
            raise _unequal(answer)


def _unequal(answer: Verified) -> IntegrityError:
    """The error for a folder that does not match: what to do with files of something else comes first."""
    from registry.folders.receipts import advice

    subject = f"{answer.reference} as {answer.kind}"
    foreign = [one.path for one in answer.beside if one.loaded]
    own = len(answer.mismatches) - len(foreign)
    if not foreign:
        told = f"{answer.folder} does not match {subject}: {counted(own, 'difference')}; fetch it again with --force."
        return IntegrityError(told, code="verify_failed")
    told = f"{answer.folder} {advice(foreign, subject)}."
    if not own:
        return IntegrityError(told, code="foreign_files")
    told += f" It does not match {subject} either: {counted(own, 'difference')}; then fetch it again with --force."
    return IntegrityError(told, code="verify_failed")


def export(
    ref: Ref,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A folder that is new or holds an earlier export, or hf:ORG/REPO."),
    ],
    *,
    kind: As = "lora",
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="ORG/REPO",
            help="The model on the Hub that it goes on. Default: where the base model was taken from.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; else it is private.")] = False,
    with_names: Annotated[
        bool,
        typer.Option("--with-names", help="Let paths, the message and the published README.md go out."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and the files, and write nothing.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write a revision as a repository for a Hub, with its card.

    Paths, which may be names of customers, stay here unless you say otherwise: the card and the receipt beside it have
    digests. A repository or folder that holds anything but an earlier export is left as it is. What comes back by
    publish has its parent proven by the receipt.
    """
    from registry.cli.render.results import dry_run as described
    from registry.cli.render.results import harmless

    with session(url, as_json) as run:
        answer = run.registry.export(
            ref,
            target,
            kind=kind,
            base_model=base_model,
            public=public,
            with_names=with_names,
            dry_run=dry_run,
            progress=run.progress,
        )
        if dry_run:
            run.answer(answer, described)
        else:
            where = answer.target if answer.commit is None else f"{answer.target}@{answer.commit}"
            run.answer(answer, lambda _width: [(Span(harmless(where)),)])
        state = "not written, a dry run" if dry_run else "written" if answer.created else "already there, unchanged"
        seen = {None: "", True: ", public", False: ", private"}[answer.public]
        total = size(sum(file.size or 0 for file in answer.files))
        files = counted(len(answer.files), "file")
        run.say(f"{answer.reference} as {answer.kind} to {answer.target}: {files}, {total}{seen}, {state}")
        for item in answer.left_out:
            run.say(f"left out: {item.path} ({item.reason})")
        run.notices(answer.notices)
        if dry_run:
            return
        if answer.url is not None:
            run.say(answer.url)
        else:
            upload = ("hf", "upload", "--private", "ORG/REPO", answer.target)
            run.next(upload, "uploads it; hf:ORG/REPO as the target does so at once")
