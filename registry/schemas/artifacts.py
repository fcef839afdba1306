"""Artifacts: how they are requested, what fetching and verifying answer, and what was lost of ranks on the way.

Their kinds are a row each, with all that is needed of one without a tensor at hand, and with its builder. A new kind
is two files: this one has its name and its row, and a file of `registry.services.artifacts` its builder; the command
line has the names once more (`registry.cli.options.Kind`). `tests/tensors/artifacts/test_built_kinds.py` wants a judge
of its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from registry.errors import UsageError
from registry.figures import counted, moment
from registry.figures import size as in_units
from registry.schemas.form import EngineName, Layout, MeasuredRows, Onto, Param, Schema, WrittenDtype
from registry.schemas.frames import Column, Described, Listed
from registry.schemas.views import fetched as fetched_line
from registry.schemas.weights import MAX_WEIGHTS, split_weight

ArtifactKind = Literal["published", "lora", "merged"]


class OutputFile(Schema):
    """A file of a fetched folder."""

    path: str
    size: int
    blake3: str  # hex


class Options(Schema):
    """The options of an artifact, beside its reference."""

    kind: ArtifactKind = "lora"
    since: Annotated[str | None, Param(min_length=1, max_length=512)] = None  # an ancestor: only the links after it
    dtype: WrittenDtype | None = None
    rank: Annotated[int | None, Param(ge=1, le=1 << 20)] = None  # cap for each module
    max_error: Annotated[float | None, Param(gt=0, lt=1)] = (
        None  # bound of ||D - D'|| / ||D|| (Frobenius) over all modules
    )
    uniform: bool = False  # one rank for all modules
    min_fidelity: Annotated[float | None, Param(ge=0, le=1)] = (
        None  # of fp8: the share of the change that has to survive
    )
    onto: Onto | None = None  # what a merged model is made on; None: the base model as it is stored
    layout: Layout | None = None  # of a composed LoRA: whose names and files; None: PEFT's
    dense_as_diff: bool = False  # with ``comfyui``: what is no low-rank product as the whole difference (``.diff``)
    plain: bool = False  # what DoRA rescales as the nearest plain pair, within ``max_error`` of the change
    weights: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=MAX_WEIGHTS,
            description="Weights of links, such as `style=0.8,char=0.6`; a number alone is that of the last link.",
            examples=("style=0.8",),
        ),
    ] = None

    def of(self, ref: str) -> tuple[str, Options]:
        """A reference without the weight that it may end in, and the options with it; raises `UsageError`."""
        plain, weight = split_weight(ref)
        weights = ",".join(filter(None, (weight, self.weights))) or None
        return plain, self if weight is None else self.model_copy(update={"weights": weights})


class ModuleTruncation(Schema):
    """What truncation left out of one module; D is its delta, diag(c) B A where ``scaled``."""

    module: str
    rank_before: int
    rank_after: int
    energy: float  # ||D||^2 (Frobenius)
    discarded: float  # ||D - D'||^2 (Frobenius)
    relative_frobenius: float
    relative_spectral: float
    scaled: bool  # the path has DoRA links: the error is that of the merged weight


class TruncationTotal(Schema):
    """What truncation left out of all modules together, D being all deltas side by side."""

    energy: float
    discarded: float
    relative_frobenius: float
    relative_spectral: float
    parameters_before: int
    parameters_after: int
    written: float | None = None  # relative_frobenius with the rounding to a 16-bit dtype, if one was requested


class Truncation(Schema):
    """The report of a truncation: every figure is that of the best pairs of these ranks (Eckart and Young 1936)."""

    rank: int | None
    max_error: float | None
    modules: tuple[ModuleTruncation, ...]
    total: TruncationTotal
    enough_for: dict[str, int]  # relative error ("0.01") -> the smallest --rank that reaches it


FourBitType = Literal["nf4", "fp4"]
BlockSize = Literal[32, 64, 128, 256, 512, 1024, 2048, 4096]
"""Consecutive elements with one scale, as bitsandbytes takes them."""


class FourBits(Schema):
    """How the weights were quantised that an adapter was trained on (QLoRA): by bitsandbytes, as they were loaded."""

    type: FourBitType
    block: BlockSize = 64
    double: bool = False  # the scales are quantised too
    skip: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")], ...],
        Field(max_length=4096, exclude_if=lambda value: not value),
    ] = ()
    """Modules that stayed as they are, beside the output head and what is tied to it: ``llm_int8_skip_modules``."""

    @classmethod
    def parse(cls, text: str) -> FourBits:
        """Read ``nf4[:64[:double]]``; raises `UsageError`."""
        kind, *rest = text.strip().lower().split(":")
        block, *more = rest or ["64"]
        if (
            kind not in get_args(FourBitType)
            or block not in map(str, get_args(BlockSize))
            or more not in ([], ["double"])
        ):
            raise UsageError(
                f"--trained-quantised is nf4 or fp4, then maybe the block size and `double`, such as nf4:64:double, "
                f"not {text[:64]!r}. Block sizes are {', '.join(map(str, get_args(BlockSize)))}."
            )
        return cls.model_validate({"type": kind, "block": int(block), "double": bool(more)})

    def __str__(self) -> str:
        return f"{self.type}:{self.block}{':double' if self.double else ''}"

    @property
    def words(self) -> str:
        """For screens."""
        double = ", the scales quantised too" if self.double else ""
        kept = f", {counted(len(self.skip), 'module')} left as they are" if self.skip else ""
        return f"{self.type} in blocks of {self.block}{double}{kept}"


TrainedQuantised = Annotated[FourBits | None, Field(exclude_if=lambda value: value is None)]
"""Of what is known to be trained on quantised weights; absent otherwise, as it was in earlier versions."""

Svd = Literal["randomised", "full"]


class ExtractedModule(Schema):
    """The pair of one module: D is what the full model changed of its weight, D' the product of the pair."""

    module: str
    rank: int = Field(ge=1)
    energy: float = Field(ge=0, allow_inf_nan=False)  # ||D||^2 (Frobenius)
    error: float = Field(ge=0, allow_inf_nan=False)  # ||D - D'|| / ||D||, of the factors as they are written


class Extraction(Schema):
    """How an adapter was made of a full model: the best pairs over its parent, with their true errors."""

    parent: str  # digest of the revision that it was compared with, or of the base model's weights
    rank: int | None = None  # as requested; one of the two
    max_error: float | None = None
    svd: Svd = "randomised"
    error: float = Field(ge=0, allow_inf_nan=False)  # of all modules together
    modules: tuple[ExtractedModule, ...]
    values: tuple[str, ...] = ()  # parameters that are stored whole
    unchanged: int = 0  # parameters that equal the parent's, and are left out

    def __repr__(self) -> str:
        return f"<Extraction {len(self.modules)} modules, error {100 * self.error:.3g} %, {len(self.values)} values>"


Extracted = Annotated[Extraction | None, Field(exclude_if=lambda value: value is None)]
"""Of what was made of a full model; absent otherwise, as it was in earlier versions."""


class FidelityFigures(Schema):
    """What is left of a change D after rounding: S = round(W + D) - round(W); None where D is 0."""

    relative_error: float | None  # |S - D| / |D| (Frobenius)
    unchanged_share: float | None  # of the elements where D is not 0, those where S is 0
    surviving_share: float | None  # <S, D> / |D|^2


class TensorFidelity(FidelityFigures):
    """Of one tensor of the merged model."""

    tensor: str
    dtype: str  # that the files have it in


class UnmeasuredTensor(Schema):
    """A tensor whose values, or some rows of it, are no change of the base's: they are left out of all figures."""

    tensor: str
    how: Literal["replaced", "rows replaced", "rescaled by column"]  # the last one in estimates: it takes all rows


class ModelFidelity(FidelityFigures):
    """How much of the path's change against the base model the rounded weights of a merged model hold."""

    rows: MeasuredRows  # which were measured: every 16th of large tensors and all of small ones, or all


class Fidelity(ModelFidelity):
    """The same with each tensor, where they are known: a service tells only of the whole model."""

    tensors: tuple[TensorFidelity, ...] = ()
    left_out: tuple[UnmeasuredTensor, ...] = ()


Measured = Annotated[Fidelity | None, Field(exclude_if=lambda value: value is None)]
"""Of a merged model, as it was measured when its files were made; absent otherwise, as it was in earlier versions."""


def fuller(one: Fidelity | None, other: Fidelity | None) -> Fidelity | None:
    """Of two measurements of the same files that of more rows."""
    return other if one is None or is_full(other) else one


def is_full(fidelity: Fidelity | None) -> bool:
    """Whether it was measured on all rows."""
    return fidelity is not None and fidelity.rows == "full"


class Fetched(Schema):
    """Answer of ``fetch``."""

    reference: str
    kind: ArtifactKind
    folder: str
    rendering: str
    fresh: bool  # False: the folder held this rendering already
    files: tuple[OutputFile, ...]
    notices: tuple[str, ...]
    truncation: Truncation | None = None
    fidelity: Measured = None

    def __repr__(self) -> str:
        return fetched_line(self)


class Materialisation(Schema):
    """An artifact that is kept in the store."""

    id: str
    reference: str  # PATH@N
    digest: str  # of the revision
    kind: ArtifactKind
    rendering: str
    numerics: str | None  # fingerprint of the arithmetic that made it
    size: int  # of all files
    files: int
    created_at: datetime
    created_by: str
    expires_at: datetime
    fidelity: Annotated[ModelFidelity | None, Field(exclude_if=lambda value: value is None)] = None


class Materialisations(Listed[Materialisation]):
    """Answer of ``materialisations``: by path, number and kind."""

    __slots__ = ()
    described = Described(
        noun="materialisation",
        columns=(
            Column("id", "id", style="reference"),
            Column[Materialisation]("size", "size", lambda one: in_units(one.size), right=True),
            Column[Materialisation]("until", "until", lambda one: moment(one.expires_at)),
            Column("reference", "of"),
            Column("kind", "as", style="quiet"),
        ),
        screen="id size until|reference kind",
        heads="ID|SIZE|UNTIL (UTC)|OF, AS",
        table="id size until reference kind",
        frame="id reference digest kind size files created_at created_by expires_at rendering numerics",
    )


class Materialised(Schema):
    """Answer of ``materialise``."""

    materialisation: Materialisation
    created: bool  # False: it existed, and expires later now
    bytes_stored: int  # that the store did not have


class TensorMismatch(Schema):
    """A tensor of a fetched folder that differs from the registry's, a field of its receipt, or a file beside them."""

    file: str
    tensor: str | None  # None: not a tensor file, or its header; or the file does not belong to it
    reason: str


class BesideFile(Schema):
    """What a fetched folder holds beside the artifact's files; a folder that holds nothing else ends with /."""

    path: str
    loaded: bool  # programs that load the folder read it; False: it is in nobody's way, such as a trainer's checkpoints


class ReplayedCombination(Schema):
    """A combination of a path, combined again."""

    reference: str  # PATH@N
    state: Literal["same", "close", "different"]  # the same bytes; up to another machine's arithmetic; other weights
    relative_difference: float = 0.0  # the norm of what the deltas differ by, over that of the stored one


class Verified(Schema):
    """Answer of ``verify``."""

    folder: str
    reference: str
    kind: ArtifactKind
    equal: bool
    exact: bool  # False: values were compared within the rounding bound, not bytes: ``not_exact`` says why
    files: int
    mismatches: tuple[TensorMismatch, ...]
    not_exact: Annotated[str | None, Field(exclude_if=lambda reason: reason is None)] = None
    beside: Annotated[tuple[BesideFile, ...], Field(exclude_if=lambda found: not found)] = ()
    fidelity: Measured = None  # on all rows if the model was computed again on this machine
    combinations: tuple[ReplayedCombination, ...] = Field(
        default=(), exclude_if=lambda found: not found, description="Those of its path, combined again."
    )


class EngineReason(Schema):
    """Why an engine can't load an adapter."""

    code: str  # rank, not_composable, or a part: dora, replaced, biases, tokens, embeddings, experts, ...
    modules: tuple[str, ...]  # modules or parameters that it is about; empty: the whole adapter
    sentence: str
    remedy: str
    source: str  # where the engine's code says so; empty: it is no rule of the engine


class EngineAnswer(Schema):
    """Whether an engine loads the composed adapter of a revision, as `show` has it from an earlier check."""

    engine: EngineName
    version: str  # of the engine, whose rules these are
    loads: bool
    reasons: tuple[str, ...]  # codes of why not
    rank: int | None
    max_lora_rank: int | None  # the engine's default


class EngineCheck(Schema):
    """Answer of ``check``: whether an engine loads the composed adapter of a revision."""

    reference: str
    engine: EngineName
    version: str  # of the engine, whose rules these are
    loads: bool
    reasons: tuple[EngineReason, ...]  # every one; none if it loads
    rank: int | None  # the largest of a module, which the engine has to accept; None: no such adapter exists
    max_lora_rank: int | None  # what it was judged by: as requested, or the engine's default; None: any rank
    would_do: str  # the command that writes what does load
    notes: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # on a base that is quantised so

    def __repr__(self) -> str:
        verb = "loads" if self.loads else f"does not load ({', '.join(reason.code for reason in self.reasons)})"
        return f"<EngineCheck {self.reference}: {verb} in {self.engine} {self.version}>"


OPTIONS: Final = tuple(name for name in Options.model_fields if name != "kind")
"""What an artifact is requested by, besides its kind."""

BASE_KIND: Final[ArtifactKind] = "published"
"""As what a base model is handed out in every view: its files, byte for byte."""

TRAINED_ON: Final[ArtifactKind] = "merged"
"""What adapters are trained on, and composed ones go on: the model of a path."""


@dataclass(frozen=True)
class Kind:
    """One kind of artifact."""

    name: ArtifactKind
    view: str  # where its Hub-compatible view is, below the service's address
    label: str  # what a screen calls weights that were fetched as this kind
    builder: (
        str  # MODULE:NAME below `registry.services.artifacts` of what lays out its files; loaded when it is requested
    )
    refuses: Mapping[str, str]  # option -> the sentence that says why; in the order in which they are checked
    is_model: bool = False
    """A whole model, and no adapter. Its repos hide ``adapter_config.json``, which makes clients load an adapter."""
    is_composed: bool = False
    """An adapter made of several: it needs a link, and names the repo and the revision of the model that it goes on."""
    is_verbatim: bool = False
    """Stored files, byte for byte: no arithmetic makes them, their digests are known, and nothing is materialised."""
    tip_only: bool = False
    """Made of the last revision alone, so training on it shows no parent; else of the whole path."""
    on_base_dir: bool = False
    """Can be computed on a client's machine, on local base weights (``--base-dir``)."""

    @property
    def takes(self) -> tuple[str, ...]:
        """The options that it may be requested with."""
        return tuple(option for option in OPTIONS if option not in self.refuses)

    def check_base_dir(self) -> None:
        """Refuse ``--base-dir`` for what is not computed on it; raises `UsageError`."""
        if not self.on_base_dir:
            raise UsageError(f"--base-dir needs --as merged, not --as {self.name}: it is for merging on this machine.")


def _about_composed(kind: ArtifactKind) -> dict[str, str]:
    """The options of composed adapters, as another kind refuses them."""
    return {
        option: f"{_flag(option)} needs --as lora, not --as {kind}: it applies to composed adapters."
        for option in ("since", "rank", "max_error", "uniform", "layout", "dense_as_diff", "plain")
    }


def _about_merged(kind: ArtifactKind) -> dict[str, str]:
    """The options of merged models, as another kind refuses them."""
    return {
        option: f"{_flag(option)} needs --as merged, not --as {kind}: it says what the adapters are merged onto."
        for option in ("onto", "min_fidelity")
    }


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


_ROWS: Final = (
    Kind("merged", "hf", "merged", "merged:MERGED", refuses=_about_composed("merged"), is_model=True, on_base_dir=True),
    Kind("lora", "hf-lora", "composed", "composed:COMPOSED", refuses=_about_merged("lora"), is_composed=True),
    Kind(
        "published",
        "hf-published",
        "as published",
        "build:PUBLISHED",
        refuses={
            "dtype": "--dtype can't be given with --as published: these are the bytes as they were published.",
            "weights": "--weight can't be given with --as published: these are the bytes as they were published.",
            **_about_composed("published"),
            **_about_merged("published"),
        },
        is_verbatim=True,
        tip_only=True,
    ),
)

KINDS: Final[Mapping[ArtifactKind, Kind]] = {row.name: row for row in _ROWS}


def check_options(options: Options) -> None:
    """Refuse what an artifact of this kind can't be requested with; raises `UsageError`."""
    for option, sentence in KINDS[options.kind].refuses.items():
        if getattr(options, option) != Options.model_fields[option].default:
            raise UsageError(sentence)
    if options.dtype in ("keep", "fp8") and options.kind != "merged":
        raise UsageError(
            f"--dtype {options.dtype} needs --as merged, not --as {options.kind}: it is for quantised bases."
        )
    if options.min_fidelity is not None and options.dtype != "fp8":
        raise UsageError("--min-fidelity needs --dtype fp8: it says how much of the change has to survive.")
    if options.plain and options.max_error is None:
        raise UsageError("plain needs max_error: a plain LoRA is only near to what a path with DoRA means.")
    if options.dense_as_diff and options.layout != "comfyui":
        raise UsageError("--dense-as-diff needs --for comfyui or --for forge: no other reader knows such tensors.")
    if options.dense_as_diff and (options.rank, options.max_error) != (None, None):
        raise UsageError("--dense-as-diff writes whole differences, which have no rank: leave --max-error out.")


def check_ranks(rank: int | None, max_error: float | None) -> None:
    """Refuse options of a truncation that mean nothing, before any work is done.

    Raises:
        UsageError: ``rank`` is below 1, or ``max_error`` is not a number from 0 up to, not including, 1.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"--rank must be 1 or more, not {rank}.")
    if max_error is not None and not 0 <= max_error < 1:
        raise UsageError(f"--max-error must be 0 or more and less than 1 (0.05 is 5 %), not {max_error}.")
