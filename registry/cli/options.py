"""Options shared by several commands, and the parsing of ``name=value``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from registry.cli import completion
from registry.errors import UsageError
from registry.settings.parsers import parse_duration

_NUMBER: Final = re.compile(r"(-?[0-9]+(?:[.,][0-9]+)?)( ?%)?")


class Kind(StrEnum):
    """Values of ``--as``: the rows of `registry.schemas.kinds`."""

    LORA = "lora"
    MERGED = "merged"
    PUBLISHED = "published"


class FloatType(StrEnum):
    """Values of ``stats --fidelity``."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class WrittenType(StrEnum):
    """Values of ``fetch --dtype``."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
    KEEP = "keep"
    FP8 = "fp8"


class OntoChoice(StrEnum):
    """What adapters are merged onto."""

    TRAINED = "trained"


class QuantizationChoice(StrEnum):
    """Values of ``--base-quantization``."""

    FP8 = "fp8"
    MXFP4 = "mxfp4"
    BITSANDBYTES = "bitsandbytes"


class RowsChoice(StrEnum):
    """Values of ``--fidelity`` where a model is made: of which rows it is measured."""

    SAMPLE = "sample"
    FULL = "full"


class EngineChoice(StrEnum):
    """Values of ``--engine`` and ``--for``: the rows of `registry.engines.rules`."""

    VLLM = "vllm"
    SGLANG = "sglang"
    PEFT = "peft"
    TRANSFORMERS = "transformers"


class RoleName(StrEnum):
    """Values of ``token create --role``; each includes the rights of those before it."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


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
        "0.05.",
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
    WrittenType | None,
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
    OntoChoice | None,
    typer.Option(
        "--onto", help="With --as merged: trained, for the 4 bit weights that it was trained on, not those stored."
    ),
]
Measured = Annotated[
    RowsChoice, typer.Option("--fidelity", help="With --as merged: measure what rounding keeps on these rows.")
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
