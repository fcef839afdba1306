"""Whether an engine loads an adapter: yes, or no with every reason and what would do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from registry.engines.parts import NOTHING, AdapterFiles, BaseFacts, Parts, parts_of
from registry.engines.rules import ENGINES, LAYOUTS, OF_MODEL, Engine, Part
from registry.errors import InvalidAdapterError, UsageError
from registry.schemas.artifacts import EngineAnswer, EngineCheck, EngineReason, Options
from registry.schemas.form import BaseQuantization, EngineName

_SAYS: Final[dict[Part, str]] = {
    "language": "goes on a model of the type {}",
    "image": "goes on an image model ({})",
    "family": "goes on an image model ({})",
    "model": "goes on a model of the type {}",
    "dora": "has DoRA links (magnitudes)",
    "not_low_rank": "rescales {} (DoRA on columns, or IA3)",
    "replaced": "replaces the whole module {}",
    "biases": "replaces biases ({})",
    "tokens": "replaces rows of {} (trainable_token_indices)",
    "embeddings": "adapts the embedding {}",
    "convolutions": "adapts the convolution {}",
    "attention": "adapts the fused attention {}",
    "experts": "adapts experts that share one tensor ({})",
    "half_experts": "adapts one of two parameters of {}",
    "conv1d": "adapts {} (Conv1D of transformers)",
    "pattern": "has to give its {} as a pattern",
    "modules": "adapts {}",
    "head": "adapts {}",
    "parameters": "adapts {} by target_parameters alone",
    "indexer": "adapts the indexer of sparse attention ({})",
    "together": "adapts {} alone",
    "clip": "adapts CLIP's {}",
    "t5": "adapts T5's {}",
    "encoders": "adapts {} of a text encoder",
    "denoisers": "adapts two denoisers, {}",
    "unnamed": "adapts {}",
}
_BRIEFLY: Final[dict[str, str]] = {
    "rank": "its rank is above what the engine takes",
    "not_composable": "no single adapter equals its path",
    "language": "the engine is for image models",
    "image": "the engine has no image models",
    "family": "the engine has no such image models",
    "model": "the engine loads no adapter on such a model",
    "dora": "it has DoRA",
    "not_low_rank": "it rescales modules as no product of low rank does",
    "replaced": "it replaces whole modules",
    "biases": "it replaces biases",
    "tokens": "it replaces rows of tokens",
    "embeddings": "it adapts an embedding",
    "convolutions": "it adapts convolutions",
    "attention": "it adapts fused attention",
    "experts": "it adapts experts that share one tensor",
    "half_experts": "it adapts one of two parameters of experts",
    "conv1d": "it adapts Conv1D modules",
    "pattern": "it needs a pattern in its configuration",
    "modules": "it adapts modules that the engine does not",
    "head": "it adapts the head over the vocabulary",
    "parameters": "it names modules in target_parameters alone",
    "indexer": "it adapts the indexer of sparse attention",
    "together": "it lacks modules that the engine stacks with its own",
    "clip": "it adapts CLIP",
    "t5": "it adapts T5",
    "encoders": "it adapts a text encoder that is not CLIP's",
    "denoisers": "it adapts two denoisers",
    "unnamed": "it adapts modules whose names there are not known",
}
_AS_DIFF: Final[frozenset[str]] = frozenset({"dora", "not_low_rank", "replaced", "biases"})
"""What ``--dense-as-diff`` writes as the whole difference of a weight."""
_RESCALED: Final[frozenset[str]] = frozenset({"dora", "not_low_rank"})
"""What ``--max-error`` writes as the nearest plain LoRA."""
_MERGED: Final = "Serve the path merged."
_PLAIN: Final = (
    "Serve the path merged, or allow an error with --max-error, such as 0.05, for the nearest LoRA without DoRA."
)
_DENSE: Final = "Give --dense-as-diff, or serve the path merged."


def in_short(answer: EngineAnswer) -> list[str]:
    """The reasons of a stored answer, which has their codes alone; codes of later versions unchanged."""
    codes = dict.fromkeys(answer.reasons)
    if "rank" in codes and answer.max_lora_rank is not None:
        more = f"its rank is {answer.rank}, above {answer.max_lora_rank}, unless the engine is started with more"
        return [more, *(_BRIEFLY.get(code, code) for code in codes if code != "rank")]
    return [_BRIEFLY.get(code, code) for code in codes]


def check_limit(engine: EngineName, limit: int | None) -> int | None:
    """The largest rank that an engine is started with, its own default where none is given.

    Raises:
        UsageError: the engine has no such limit, or can't be started with this one.
    """
    row = ENGINES[engine]
    if limit is None:
        return row.rank
    if not row.takes_limit:
        raise UsageError(f"--max-lora-rank is an option of vLLM and SGLang; {row.title} loads any rank: leave it out.")
    if row.slots and limit not in row.slots:
        raise UsageError(
            f"{row.title} {row.version} can't be started with --max-lora-rank {limit}: it has slots for the ranks "
            f"{', '.join(map(str, row.slots))}; give one of them."
        )
    return limit


def engine_check(
    reference: str,
    adapter: AdapterFiles | Parts,
    engine: EngineName,
    limit: int | None,
    *,
    base: BaseFacts = NOTHING,
    since: str | None = None,
    quantised: BaseQuantization | None = None,
) -> EngineCheck:
    """Judge a composed adapter by the rules of an engine.

    Args:
        reference: PATH@N, which the adapter was composed for.
        adapter: its files, of whose weights only the header is read; or what it consists of.
        engine: the engine.
        limit: the largest rank that the engine is started with. None: any.
        base: what is known of the base model; what depends on more is no reason.
        since: the ancestor that the adapter goes on, if it is not the base model.
        quantised: how the base model is quantised that the adapter is served on.
    """
    row, parts = ENGINES[engine], adapter if isinstance(adapter, Parts) else parts_of(adapter, base)
    found = list(_on_quantised(row, parts, quantised))
    reasons = (*_reasons(row, parts, limit, base), *(one for one in found if isinstance(one, EngineReason)))
    answer = _answer(reference, row, reasons, parts.rank, limit, since)
    return answer.model_copy(update={"notes": tuple(one for one in found if isinstance(one, str))})


def _on_quantised(row: Engine, parts: Parts, quantised: BaseQuantization | None) -> Iterator[EngineReason | str]:
    """What the engine does on such a base model: why it does not load, or what to know where it does."""
    names = {name for modules in parts.modules.values() for name in modules}
    experts = sorted(name for name in names if "experts" in name.split("."))
    for one in row.quantised.get(quantised, ()) if quantised else ():
        if one.experts and not experts:
            continue
        sentence = f"On a base model in {quantised}, {row.title} {row.version} {one.what}."
        if one.loads:
            yield f"{sentence} ({one.source})"
        else:
            yield EngineReason(code=quantised or "", modules=(), sentence=sentence, remedy=_MERGED, source=one.source)


def check_quantised(engine: EngineName, quantised: BaseQuantization | None) -> None:
    """Refuse a quantisation of which nothing is known for an engine; raises `UsageError`."""
    row = ENGINES[engine]
    if quantised is not None and quantised not in row.quantised:
        known = " and ".join(one.title for one in ENGINES.values() if one.quantised)
        raise UsageError(f"--base-quantization {quantised} is known of {known} only, not of {row.title}: leave it out.")


def not_composable(reference: str, engine: EngineName, problem: str, limit: int | None) -> EngineCheck:
    """The answer for a path that no single adapter equals."""
    reason = EngineReason(code="not_composable", modules=(), sentence=problem, remedy=_MERGED, source="")
    return _answer(reference, ENGINES[engine], (reason,), None, limit, None)


def _answer(
    reference: str,
    row: Engine,
    reasons: tuple[EngineReason, ...],
    rank: int | None,
    limit: int | None,
    since: str | None,
) -> EngineCheck:
    return EngineCheck(
        reference=reference,
        engine=row.name,
        version=row.version,
        loads=not reasons,
        reasons=reasons,
        rank=rank,
        max_lora_rank=limit,
        would_do=_would_do(f"{reference} --since {since}" if since else reference, row, reasons, rank, limit),
    )


def _reasons(row: Engine, parts: Parts, limit: int | None, base: BaseFacts) -> Iterator[EngineReason]:
    if limit is not None and parts.rank > limit:
        yield EngineReason(
            code="rank",
            modules=(),
            sentence=f"It has rank {parts.rank} but {row.title} {row.version} accepts at most {limit}.",
            remedy=_remedy_of_rank(row, parts.rank),
            source=row.rank_source,
        )
    for part, rule in row.rules.items():
        if part == "model":
            found = [kind] if (kind := base.model_type) is not None and kind in rule.only_on else []
        elif part == "together":
            found = _alone(row, parts)
        elif part == "parameters":
            found = _unnamed(row, parts)
        else:
            found = [one for one in parts.modules.get(part, ()) if not rule.loads(one, base.model_type)]
        if not found or (rule.but_on and (base.model_type is None or base.model_type in rule.but_on)):
            continue
        what = _SAYS[part].format(_few(found))
        sentence = f"It {what}, which {row.title} {row.version} can't load: {rule.why}."
        if part in OF_MODEL:
            sentence = f"It {what}, on which {row.title} {row.version} loads no adapter: {rule.why}."
        modules = () if part in OF_MODEL else tuple(found)
        remedy = _PLAIN if part in _RESCALED else _MERGED
        remedy = _DENSE if part in _AS_DIFF and LAYOUTS.get(row.name) == "comfyui" else remedy
        yield EngineReason(code=part, modules=modules, sentence=sentence, remedy=remedy, source=rule.source)
        if part in OF_MODEL:
            return  # its other parts don't matter then


def _alone(row: Engine, parts: Parts) -> list[str]:
    """Modules that lack one of those that the engine stacks them with."""
    linear = set(parts.modules.get("modules", ()))
    return sorted(name for name in linear if _lacks(name, row, linear))


def _unnamed(row: Engine, parts: Parts) -> list[str]:
    """Modules of target_parameters whose like target_modules does not name."""
    apart = parts.modules.get("parameters", ())
    leaves = {name.rpartition(".")[2] for name in set(parts.modules.get("modules", ())).difference(apart)}
    named = {row.stacks.get(leaf, leaf) for leaf in leaves}
    return [name for name in apart if row.stacks.get(leaf := name.rpartition(".")[2], leaf) not in named]


def _lacks(name: str, row: Engine, linear: Collection[str]) -> bool:
    parent, _, leaf = name.rpartition(".")
    return any(f"{parent}.{other}" not in linear for other in row.together.get(leaf, ()))


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def startable(row: Engine, rank: int) -> int | None:
    """The smallest limit that an engine can be started with and that takes a rank."""
    return next((slot for slot in row.slots if slot >= rank), None) if row.slots else rank


def _remedy_of_rank(row: Engine, rank: int) -> str:
    slot = startable(row, rank) if row.takes_limit else None
    larger = "" if slot is None else f"Start {row.title} with --max-lora-rank {slot}, or allow"
    return f"{larger or 'Allow'} an error with --max-error, such as 0.05, to have the adapter truncated."


def _would_do(
    reference: str, row: Engine, reasons: tuple[EngineReason, ...], rank: int | None, limit: int | None
) -> str:
    others = {reason.code for reason in reasons} - {"rank"}
    if others and others <= _AS_DIFF and LAYOUTS.get(row.name) == "comfyui":
        return f"registry fetch {reference} --for {row.name} --dense-as-diff"
    if others:
        return f"registry fetch {reference.partition(' ')[0]} --as merged"
    fetch = f"registry fetch {reference} --for {row.name}"
    needed = limit
    if reasons and rank is not None:
        needed = startable(row, rank)
        if needed is None:
            started = f" --max-lora-rank {limit}" if row.takes_limit else ""
            return f"{fetch}{started} --max-error 0.05"
    return fetch if needed == row.rank else f"{fetch} --max-lora-rank {needed}"


def options_for(options: Options, found: EngineCheck) -> Options:
    """The options of the artifact that an engine loads, by its check: filled up, and truncated if requested.

    ``options.max_error`` allows a truncation of what is above the limit, and plain pairs instead of DoRA; the rest is
    exact, whatever error is allowed.

    Raises:
        InvalidAdapterError: ``engine_limits`` or ``not_low_rank``, no such adapter exists.
    """
    layout = LAYOUTS.get(found.engine)
    dense = _AS_DIFF if options.dense_as_diff and layout == "comfyui" else frozenset()
    others = {reason.code for reason in found.reasons} - {"rank"} - dense
    plain = bool(others) and needs_plain(found) and options.max_error is not None
    row = ENGINES[found.engine]
    truncates = options.max_error is not None and (plain or any(reason.code == "rank" for reason in found.reasons))
    if (others and not plain) or (not truncates and any(reason.code == "rank" for reason in found.reasons)):
        raise refusal(found)
    options = options.model_copy(update={"plain": plain})
    if takes_any_rank(found.engine):
        return options.model_copy(update={"layout": layout})
    return options.model_copy(
        update={
            "uniform": row.uniform,
            "layout": layout,
            "rank": found.max_lora_rank if truncates else None,
            "max_error": options.max_error if truncates else None,
        }
    )


def needs_plain(found: EngineCheck) -> bool:
    """Whether all that an engine can't load is what a truncation makes a plain LoRA of low rank: DoRA, and ranks."""
    others = {reason.code for reason in found.reasons} - {"rank"}
    return bool(others) and others <= _RESCALED


def takes_any_rank(engine: EngineName) -> bool:
    """Whether it has files of its own and no largest rank: a lower one is then a wish, and no limit."""
    return engine in LAYOUTS and ENGINES[engine].rank is None


def kept_refusal(answer: EngineAnswer) -> str | None:
    """Why an engine loads a revision with no limit that it can be started with, by a stored answer; None: it does."""
    row = ENGINES[answer.engine]
    why = [f"{code} ({rule.why})" for code, rule in row.rules.items() if code in answer.reasons]
    if "rank" in answer.reasons and answer.rank is not None and startable(row, answer.rank) is None:
        why.append(f"rank (it has {answer.rank}, and at most {row.slots[-1]} is possible)")
    return f"{row.title} {answer.version} can't load it: {', '.join(why)}." if why else None


def refusal(found: EngineCheck) -> InvalidAdapterError:
    """The error for an adapter that an engine can't load: ``not_low_rank`` if it is such a rescaling, in every form."""
    code = "not_low_rank" if any(reason.code == "not_low_rank" for reason in found.reasons) else "engine_limits"
    return InvalidAdapterError(f"{told(found)} What would do: `{found.would_do}`.", code=code)


def told(found: EngineCheck) -> str:
    """Every reason in a sentence, with its remedy once."""
    title = ENGINES[found.engine].title
    remedies = dict.fromkeys(reason.remedy for reason in found.reasons)
    said = " ".join(reason.sentence for reason in found.reasons)
    return f"{title} {found.version} can't load {found.reference}. {said} {' '.join(remedies)}"
