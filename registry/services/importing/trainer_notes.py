"""What trainers leave with an adapter: metrics of its last evaluation, and ids of the run. No pickle is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.folders.heaps import CHECKPOINT, figures_of_state, is_number, is_of_weights, metrics_among, trainer_state
from registry.folders.local_files import read_start
from registry.folders.scan import README, is_own_file
from registry.services.artifacts.readme.front_matter import split

_MOST: Final = 1 << 20
_WANDB: Final = re.compile(r"https?://[^\s/()]*wandb\.ai/([\w.-]+/[\w.-]+)/runs/([a-z0-9]{4,32})")
_WANDB_FOLDER: Final = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-([a-z0-9]{4,32})")

TRACES: Final = (
    ("axolotl", re.compile(r"\baxolotl\b", re.IGNORECASE), ("axolotl_config.yaml", "axolotl_config.yml")),
    ("unsloth", re.compile(r"\bunsloth\b", re.IGNORECASE), ()),
    ("LLaMA-Factory", re.compile(r"\bllama-factory\b", re.IGNORECASE), ("trainer_log.jsonl", "llamaboard_config.yaml")),
    ("TRL", re.compile(r"\btrl\b", re.IGNORECASE), ()),
    ("transformers Trainer", None, ("training_args.bin", "trainer_state.json")),
)
"""Programs that train: by what they write into the model card, or files that only they leave."""


@dataclass(frozen=True)
class Notes:
    """Metrics and annotations that can be published."""

    metrics: Mapping[str, float]
    annotations: Mapping[str, str]


def notes_of(folder: Path, run: Path | None) -> Notes:
    """What was left in a folder, and in that of its run."""
    card = _card(folder)
    state, step = _state(folder, run)
    # Later ones are nearer to these weights.
    metrics = metrics_among((*_of_card(card), *_of_results(folder), *figures_of_state(state, step)))
    return Notes(metrics, dict(_annotations(folder, run, card, state, step)))


def notes_in(card: str, state: Mapping[str, Any]) -> Notes:
    """What a model card and a trainer's state report, if the folder is absent."""
    texts = ((name, words) for name, words, _ in TRACES if words is not None)
    trainers = [("trainer", name) for name, words in texts if words.search(card)][:1]
    metrics = metrics_among((*_of_card(card), *figures_of_state(state, None)))
    return Notes(metrics, dict([*trainers, *_run(card, None), *_step(state)]))


def _state(folder: Path, run: Path | None) -> tuple[Mapping[str, Any], int | None]:
    """The trainer's state with the most information about these weights, and their step, if known."""
    match = CHECKPOINT.fullmatch(folder.name)
    step = int(match[1]) if match else None
    places = [folder, *([run] if run is not None else []), *(_last_checkpoint(folder) if step is None else ())]
    for place in places:
        if state := trainer_state(place):
            return state, step
    return {}, step


def _last_checkpoint(folder: Path) -> Iterator[Path]:
    try:
        found = [one for one in folder.iterdir() if CHECKPOINT.fullmatch(one.name) and not one.is_symlink()]
    except OSError:
        return
    yield from sorted(found, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True)[:1]


def _of_results(folder: Path) -> Iterator[tuple[Any, Any]]:
    for name in ("all_results.json", "eval_results.json"):
        found = _json(folder / name)
        yield from (
            (key, value)
            for key, value in found.items()
            if is_of_weights(str(key)) and key not in {"epoch", "total_flos"}
        )


def _of_card(card: str) -> Iterator[tuple[Any, Any]]:
    """The figures of ``model-index`` in the front matter."""
    index = split(card)[0].get("model-index")
    models = [one for one in index if isinstance(one, dict)] if isinstance(index, list) else []
    results = models[0].get("results") if models else None
    for result in results if isinstance(results, list) else []:
        metrics = result.get("metrics") if isinstance(result, dict) else None
        for metric in metrics if isinstance(metrics, list) else []:
            if isinstance(metric, dict):
                yield metric.get("type"), metric.get("value")


def _annotations(
    folder: Path, run: Path | None, card: str, state: Mapping[str, Any], step: int | None
) -> Iterator[tuple[str, str]]:
    for name, words, files in TRACES:
        if (words is not None and words.search(card)) or any((folder / file).is_file() for file in files):
            yield "trainer", name
            break
    yield from _run(card, _wandb_folder(folder) or (_wandb_folder(run) if run is not None else None))
    yield from _step(state if step is None else {"global_step": step})


def _run(card: str, left: str | None) -> Iterator[tuple[str, str]]:
    """The run of W&B that the card links to; else the id that W&B's client has left."""
    if (linked := _WANDB.search(card)) is not None:
        yield "wandb", f"{linked[1]}/runs/{linked[2]}"
    elif left is not None:
        yield "wandb", left


def _step(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if is_number(at := state.get("global_step")):
        yield "step", f"{at:.0f}"


def _wandb_folder(folder: Path) -> str | None:
    """The id of the only run that W&B's client has left in a folder."""
    try:
        found = {match[1] for one in (folder / "wandb").iterdir() if (match := _WANDB_FOLDER.fullmatch(one.name))}
    except OSError:
        return None
    return found.pop() if len(found) == 1 else None


def _card(folder: Path) -> str:
    file = folder / README
    return read_start(file, _MOST).decode("utf-8", "replace") if is_own_file(file, folder) else ""


def began_with(folder: Path, config: Mapping[str, Any] | None) -> frozenset[str]:
    """The models, repositories or folders, that a model's card and configuration name as its sources."""
    said = split(_card(folder))[0].get("base_model")
    names = [*(said if isinstance(said, list) else [said]), (config or {}).get("_name_or_path")]
    return frozenset(name for name in names if isinstance(name, str) and name)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes()) if file.stat().st_size <= _MOST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
