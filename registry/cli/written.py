"""Files that options name beside a command's result: checked before any work is done, and written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from registry.errors import UnavailableError, UsageError
from registry.folders.local_files import reason

_PICTURES: Final = {".png", ".jpg", ".jpeg", ".pdf", ".webp", ".gif", ".html"}


def check_file(option: str, file: str, out: str | None = None) -> None:
    """Check the path that an option (``--report``) names before any work is done.

    Raises:
        UsageError: it is called as another kind of picture, is a folder, is inside the output folder (``out``), which
            contains nothing but the artifact, is above that folder, or its own folder does not exist.
    """
    place = Path(file).absolute()
    if option == "--plot" and place.suffix.lower() in _PICTURES:
        named = place.with_suffix(".svg").name
        raise UsageError(f"{option} writes SVG, which {file!r} is not the name of: call it {named}, and convert that.")
    if place.is_dir():
        raise UsageError(f"{option} {file!r} is a folder; name a file.")
    # Links are resolved: the file is written through one.
    written, filled = (Path(os.path.realpath(path)) for path in (file, out or os.devnull))
    if out is not None and (written.is_relative_to(filled) or filled.is_relative_to(written)):
        raise UsageError(f"{option} {file!r} conflicts with the output folder {out!r}; name a file elsewhere.")
    if not place.parent.is_dir():
        raise UsageError(f"{option} {file!r}: there is no folder {str(place.parent)!r}; create it or choose another.")


def write_file(option: str, file: str, text: str) -> None:
    """Write the file of an option: atomically, or directly through a pipe or a link.

    Raises:
        UnavailableError: the file can't be written.
    """
    place = Path(file).absolute()
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
        raise UnavailableError(f"{option} {file!r} can't be written: {reason(problem)}. Choose another file.") from None
