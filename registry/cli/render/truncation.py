"""Reports the loss of a truncation, as a line of text and as a file."""

from __future__ import annotations

import os
from pathlib import Path

from registry.errors import UnavailableError, UsageError
from registry.folders.errors import reason
from registry.schemas import Truncation


def truncation_line(truncation: Truncation) -> str:
    """One line: the error over all modules, and the uniform rank that is enough for each of some errors."""
    if all(module.rank_after >= module.rank_before for module in truncation.modules):
        largest = max((module.rank_before for module in truncation.modules), default=0)
        return f"not truncated: its largest rank is {largest}"
    total = truncation.total
    kept = 100 * total.parameters_after / max(1, total.parameters_before)
    error = total.relative_frobenius if total.written is None else total.written
    enough = ", ".join(f"{float(bound):.0%} with --rank {rank}" for bound, rank in truncation.enough_for.items())
    return f"truncated to {kept:.3g}% of the parameters with an error of {100 * error:.3g}%; at most {enough}"


def check_report(file: str, out: str | None) -> None:
    """Check the path of the report before any work is done.

    Raises:
        UsageError: it is a folder, is inside the output folder (``out``), which contains nothing but the artifact, is
            above that folder, or its own folder does not exist.
    """
    place = Path(file).absolute()
    if place.is_dir():
        raise UsageError(f"--report {file!r} is a folder; name a file.")
    # Links are resolved: the report is written through one.
    written, filled = (Path(os.path.realpath(path)) for path in (file, out or os.devnull))
    if out is not None and (written.is_relative_to(filled) or filled.is_relative_to(written)):
        raise UsageError(f"--report {file!r} conflicts with the output folder {out!r}; name a file elsewhere.")
    if not place.parent.is_dir():
        raise UsageError(f"--report {file!r}: there is no folder {str(place.parent)!r}; create it or choose another.")


def write_report(truncation: Truncation, file: str) -> None:
    """Write the report: atomically to a file, directly through a pipe or a link.

    Raises:
        UnavailableError: the file can't be written.
    """
    place = Path(file).absolute()
    text = truncation.model_dump_json(indent=2) + "\n"
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        if place.is_symlink() or (place.exists() and not place.is_file()):
            place.write_text(text, encoding="utf-8")  # such as /dev/stdout, which a rename would replace
            return
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as problem:
        raise UnavailableError(
            f"The report {file!r} can't be written: {reason(problem)}. Choose another file."
        ) from None
