"""Options shared by several commands, the parsing of ``name=value``, and the files that options name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from registry.cli import completion
from registry.errors import UnavailableError, UsageError
from registry.folders.local_files import reason
from registry.schemas.form import MeasuredRows, Onto, WrittenDtype
from registry.settings import parse_duration

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


_NUMBER: Final = re.compile(r"(-?[0-9]+(?:[.,][0-9]+)?)( ?%)?")


def _from_root(context: typer.Context, value: Any) -> Any:
    """Fall back to the same option given before the command."""
    name = "url" if isinstance(value, str | None) else "as_json"
    return value or context.find_root().params.get(name) or value


JSON_HELP = "Print one JSON document."
URL_HELP = "The registry: a folder or http(s)://HOST. Default: REGISTRY_URL, else the service chosen by login."

Json = Annotated[bool, typer.Option("--json", help=JSON_HELP, callback=_from_root)]
Url = Annotated[str | None, typer.Option("--url", help=URL_HELP, metavar="URL", callback=_from_root)]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="A revision: PATH, PATH@3, PATH@tag or PATH@sha256:...",
        autocompletion=completion.references,
    ),
]
AdapterPath = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="An adapter: BASE/name/name...",
        autocompletion=completion.paths,
    ),
]
BaseName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The name of the base model.",
        autocompletion=completion.bases,
    ),
]
TagName = Annotated[
    str,
    typer.Argument(
        metavar="TAG",
        help="The tag.",
        autocompletion=completion.tags,
    ),
]
OldNames = Annotated[bool, typer.Option("--all", help="List old names too: of what was renamed.")]
Kind = Literal["lora", "merged", "published"]
"""The words of `registry.schemas.form.ArtifactKind`, in the order of the help."""
As = Annotated[Kind, typer.Option("--as", help="One composed LoRA, the merged model, or the bytes as published.")]
MaterialisedAs = Annotated[  # the registry rejects published, with the reason
    Kind | None,
    typer.Option("--as", metavar="lora|merged", help="One composed LoRA, or the merged model. Default: lora."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="REF",
        help="Compose only the links after this ancestor, for use on top of its weights.",
        autocompletion=completion.references,
    ),
]
Rank = Annotated[
    int | None,
    typer.Option("--rank", metavar="N", help="Truncate the composed LoRA to at most this rank in each module."),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        metavar="E",
        help="Truncate the composed LoRA to the smallest ranks within this relative error over all modules, such as "
        "0.05; with --for an engine without DoRA, also write that as the nearest plain LoRA.",
    ),
]
Uniform = Annotated[
    bool, typer.Option("--uniform", help="Pad the composed LoRA with zeros to the same rank in all modules.")
]
MaxLoraRank = Annotated[
    int | None,
    typer.Option(
        "--max-lora-rank",
        metavar="N",
        help="The largest rank that the engine is started with. Default: the engine's own, 16 for vLLM.",
    ),
]
WrittenAs = Annotated[
    WrittenDtype | None,
    typer.Option(
        "--dtype",
        help="Write all float tensors in this dtype. On a quantised base, keep: what no link changes stays as it is; "
        "fp8: what links change becomes codes again.",
    ),
]
MinFidelity = Annotated[
    float | None,
    typer.Option(
        "--min-fidelity",
        help="With --dtype fp8: the share of the change that has to survive, such as 0.5.",
        min=0,
        max=1,
    ),
]
MergedOnto = Annotated[
    Onto | None,
    typer.Option(
        "--onto", help="With --as merged: trained, for the 4 bit weights that it was trained on, not those stored."
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="LINK=W",
        help="Multiply what a link of the path adds, such as style=0.8; a number alone is of the last link, as in "
        "PATH@3:0.8. May be repeated.",
    ),
]
Measured = Annotated[
    MeasuredRows, typer.Option("--fidelity", help="With --as merged: measure what rounding keeps on these rows.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME=NUMBER", help="A metric of the revision; may be repeated."),
]
Annotations = Annotated[
    list[str] | None,
    typer.Option("--annotation", metavar="NAME=TEXT", help="A free-form annotation of the revision; may be repeated."),
]


def parse_expiry(text: str | None) -> int | None:
    """Seconds of an ``--expires`` option.

    Raises:
        UsageError: it is not a duration, or zero.
    """
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if not seconds:
        raise UsageError(f"--expires {text!s} is malformed: a duration such as 90d or 12h is expected.")
    return seconds


def parse_strict(text: str | None) -> bool | tuple[str, ...]:
    """The codes of a ``--strict`` option; True: all of them."""
    if text is None or text == "all":
        return text is not None
    return tuple(code.strip() for code in text.split(","))


def parse_annotations(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse ``name=text`` options.

    Raises:
        UsageError: one has no name or no ``=``, or a name is given twice with different values.
    """
    return pairs("--annotation", "name=text", "team=search", texts)


def parse_metrics(texts: Sequence[str] | None) -> dict[str, float]:
    """Parse ``name=number`` options; the numbers are finite.

    Raises:
        UsageError: one is malformed, or a name is given twice with different values.
    """
    metrics: dict[str, float] = {}
    for name, text in pairs("--metric", "name=number", "acc=0.91", texts).items():
        try:
            metrics[name] = float(text)
        except ValueError:
            metrics[name] = math.nan
        if not math.isfinite(metrics[name]):
            if "=" in text:
                raise UsageError(f"--metric {name}={text!s} is more than one metric: repeat --metric for each.")
            such = "acc=0.91" if (meant := number_meant(text)) is None else f"{name}={meant}"
            raise UsageError(f"--metric {name}={text!s} is malformed: name=number is expected, such as {such}.")
    return metrics


def number_meant(text: str) -> str | None:
    """What was meant by a number with a comma, or by percent; None: something else."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number = float(match[1].replace(",", "."))
    return f"{number / 100 if match[2] else number:g}"


def pairs(option: str, form: str, example: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Parse options of two texts separated by ``=``.

    Raises:
        UsageError: one has no name or no ``=``, or a name is given twice with different values.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            named = re.fullmatch(r"([^:]+):([^:]+)", text)
            such = example if named is None else f"{named[1]}={named[2]}"
            raise UsageError(f"{option} {text!s} is malformed: {form} is expected, such as {such}.")
        name = name.strip()
        if found.setdefault(name, value) != value:
            raise UsageError(f"{option} {name} is given twice, with {found[name]!r} and {value!r}; give it once.")
    return found


_WAITS: Final = "10m"
Wait = Annotated[bool, typer.Option("--wait", help="Return when every follower that lives has it; see `registry ps`.")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help=f"Of --wait: 90s, 10m, 1h. Default: {_WAITS}.")
]


def parse_timeout(text: str | None, *, wait: bool) -> float:
    """Seconds of a ``--timeout`` option.

    Raises:
        UsageError: it is no duration, or there is nothing to wait for.
    """
    if text is not None and not wait:
        raise UsageError("--timeout says how long --wait waits; give --wait, too.")
    try:
        seconds = parse_duration(text or _WAITS)
    except ValueError:
        seconds = 0
    if not seconds:
        raise UsageError(f"--timeout {text!s} is malformed: a duration such as 10m or 90s is expected.")
    return float(seconds)
