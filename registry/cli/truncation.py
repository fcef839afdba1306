"""What a truncation lost, as a line for a person and as a file."""

from __future__ import annotations

import os
from pathlib import Path

from registry.errors import UnavailableError
from registry.schemas import Truncation


def truncation_line(truncation: Truncation) -> str:
    """One line: the error over all modules, and which rank would have been enough for less."""
    total = truncation.total
    kept = 100 * total.parameters_after / max(1, total.parameters_before)
    enough = ", ".join(f"{float(error):.0%}: {rank}" for error, rank in truncation.enough_for.items())
    return (
        f"truncated to {kept:.3g}% of the parameters, relative error {total.relative_frobenius:.3g} "
        f"(one rank that is enough for an error of {enough})"
    )


def write_report(truncation: Truncation, file: str) -> None:
    """Write the report; the file appears when it is complete.

    Raises:
        UnavailableError: the file can't be written.
    """
    place = Path(file)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.write_text(truncation.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.replace(place)
    except OSError as problem:
        draft.unlink(missing_ok=True)
        raise UnavailableError(
            f"The report {file!r} can't be written: {problem.strerror}. Choose another file."
        ) from None
