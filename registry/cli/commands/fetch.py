"""Commands that fetch weights and check them: fetch, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.options import (
    As,
    EngineChoice,
    Json,
    Kind,
    MaxError,
    MaxLoraRank,
    Measured,
    Rank,
    Ref,
    RowsChoice,
    Since,
    Uniform,
    Url,
    WrittenAs,
)
from registry.cli.render.fidelity import fidelity_line
from registry.cli.render.screen import Span
from registry.cli.render.text import counted, size
from registry.cli.render.truncation import truncation_line
from registry.cli.session import session
from registry.cli.written import check_file, write_file
from registry.errors import IntegrityError, UsageError


def fetch(
    ref: Ref,
    *,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="DIR", help="The folder to write to. Default: a folder in the cache."),
    ] = None,
    kind: As = Kind.LORA,
    since: Since = None,
    rank: Rank = None,
    max_error: MaxError = None,
    uniform: Uniform = False,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(
            "--for", help="Write what this engine loads, truncated only with --max-error; refused if there is none."
        ),
    ] = None,
    max_lora_rank: MaxLoraRank = None,
    report: Annotated[
        str | None,
        typer.Option("--report", metavar="FILE", help="Write the errors of truncation or merging to this JSON file."),
    ] = None,
    fidelity: Measured = RowsChoice.SAMPLE,
    dtype: WrittenAs = None,
    base_dir: Annotated[
        str | None,
        typer.Option(
            "--base-dir",
            metavar="DIR",
            help="The base model's files on this machine; a service then sends only the adapters.",
        ),
    ] = None,
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
    if report is not None and rank is None and max_error is None and kind is not Kind.MERGED:
        raise UsageError(
            "--report describes the errors of a truncation, or of merging; it needs --rank, --max-error or --as merged."
        )
    if report is not None:
        check_file("--report", report, out)
    with session(url, as_json) as run:
        answer = run.registry.fetch(
            ref,
            out,
            kind=kind.value,
            since=since,
            rank=rank,
            max_error=max_error,
            uniform=uniform,
            dtype=dtype.value if dtype else None,
            force=force,
            base_dir=base_dir,
            engine=engine.value if engine else None,
            max_lora_rank=max_lora_rank,
            fidelity=fidelity.value,
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
            run.next(f"registry publish OUT {path}/NAME", f"publishes an adapter that was trained on {answer.folder}")
        elif out is not None:
            run.next(f"registry verify {answer.folder}", "computes it again and compares every byte")


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder that fetch wrote.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check a fetched folder, file by file and tensor by tensor.

    First against its receipt, then against the registry, which computes the weights again.
    """
    from registry.cli.render.details import verified_lines

    with session(url, as_json) as run:
        answer = run.registry.verify(folder, progress=run.progress)
        run.answer(answer, lambda width: verified_lines(answer, width))
        if answer.fidelity is not None:
            run.say(fidelity_line(answer.fidelity))
        if not answer.equal:
            raise IntegrityError(
                f"{answer.folder} does not match {answer.reference} as {answer.kind}: "
                f"{counted(len(answer.mismatches), 'difference')}; fetch it again with --force.",
                code="verify_failed",
            )
