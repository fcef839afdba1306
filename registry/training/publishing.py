"""Publishes the adapter of a model in memory, from any loop; it is first saved to a folder as PEFT saves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from registry.app import open_registry
from registry.errors import UsageError
from registry.folders.scan import ADAPTER_CONFIG, README
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.schemas import Published
from registry.training.options import look_around

_QUANTISED: Final = "The following `bitsandbytes` quantization config was used during training:"


def unwrapped(model: Any) -> Any:
    """PEFT's model inside what compiles or distributes it.

    Raises:
        UsageError: it contains none.
    """
    from peft import PeftModel

    found = model
    while not isinstance(found, PeftModel):
        inner = getattr(found, "_orig_mod", None) or getattr(found, "module", None)
        if inner is None:
            raise UsageError(
                f"The model is a {type(found).__name__}, and a PeftModel is expected: what get_peft_model of PEFT "
                "returns. A full fine-tune is saved first, and published by publish(folder, path, full=True)."
            )
        found = inner
    return found


def adapter_of(model: Any, name: str | None) -> str:
    """The chosen adapter of a PeftModel: the one of this name, None for the only active one.

    Raises:
        UsageError: the model has no such adapter, or several are active.
    """
    there = list(model.peft_config)
    if name is not None:
        if name not in there:
            raise UsageError(f"The model has no adapter {name!r}; it has {', '.join(there)}.")
        return name
    active = list(model.active_adapters)
    if len(active) != 1:
        raise UsageError(f"{len(active)} adapters of the model are active: give one of {', '.join(there)} as adapter.")
    return str(active[0])


def save_adapter(model: Any, name: str, folder: Path, tokenizer: Any = None) -> Path:
    """Save an adapter of a PeftModel, and a tokenizer, below a folder; the publish folder that this makes."""
    model.save_pretrained(str(folder), selected_adapters=[name])
    place = folder if (folder / ADAPTER_CONFIG).is_file() else folder / name  # PEFT's way, but for "default"
    if place != folder and (folder / README).is_file():
        shutil.move(folder / README, place / README)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(place))
    return place


def loaded_commit(model: Any) -> str | None:
    """The commit of the Hub's repository that the model below a PeftModel was loaded from; None: it is not known.

    Version 4 of transformers stores it in the model's configuration; version 5 stores it nowhere.
    """
    commit = getattr(getattr(model.get_base_model(), "config", None), "_commit_hash", None)
    return commit if isinstance(commit, str) else None


def note_quantised(folder: Path, model: Any) -> None:
    """Write how the weights of the model below a PeftModel were quantised into the card of its adapter.

    In the words in which PEFT did it, and newer versions of it no longer do: nothing else that it saves shows it.
    """
    block = getattr(getattr(model.get_base_model(), "config", None), "quantization_config", None)
    card = folder / README
    said = {} if block is None else block if isinstance(block, dict) else block.to_dict()
    if _plain(said.get("quant_method")) != "bitsandbytes" or _QUANTISED in (
        text := card.read_text(encoding="utf-8") if card.is_file() else ""
    ):
        return
    lines = [f"- {name}: {_plain(value)}" for name, value in said.items()]
    card.write_text("\n".join([*([text] if text else []), f"{_QUANTISED}\n", *lines, ""]), encoding="utf-8")


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # of an enumeration


def note_commit(folder: Path, path: TreePath, commit: str | None) -> None:
    """Write the commit into the configuration of an adapter that was trained on a Hub view of its base model's tree.

    PEFT writes the repository's name into it, and a revision only if one was given. The commit identifies the revision,
    so it proves the parent; for a repository of another Hub it would prove nothing.
    """
    file = folder / ADAPTER_CONFIG
    if commit is None or not file.is_file():
        return
    config = json.loads(file.read_bytes())
    name = config.get("base_model_name_or_path")
    if config.get("revision") is None and isinstance(name, str) and name.startswith(f"{path.base}/"):
        file.write_text(json.dumps({**config, "revision": commit}, indent=2, sort_keys=True), encoding="utf-8")


def publish_model(
    model: Any,
    path: str,
    *,
    registry: Registry | None = None,
    adapter: str | None = None,
    tokenizer: Any = None,
    parent: str | None = None,
    message: str = "",
    metrics: Mapping[str, float] = {},
    tags: Iterable[str] = (),
    annotations: Mapping[str, str] = {},
) -> Published:
    """Publish the adapter of a PeftModel as the next revision of a path, from any training loop.

    PEFT saves it to a temporary folder, from which it is published; the model stays as it is. The git commit of the
    working directory and the ids of open runs of W&B and MLflow become annotations, and the reference is written into
    these runs. Of several processes that train together, call it in one.

    Args:
        model: a `PeftModel`, also inside ``torch.compile`` or DistributedDataParallel.
        path: the adapter's path, ``BASE/name/name``.
        registry: an open registry. None: the one that `registry.connect` opens.
        adapter: which adapter of the model. None: the active one.
        tokenizer: saved into the same folder: a tokenizer or processor.
        parent: as in `publish`; None: derived from what the model was loaded from.
        message: as in `publish`.
        metrics: as in `publish`.
        tags: as in `publish`.
        annotations: as in `publish`; these win over what is found.

    Raises:
        UsageError: it is no PeftModel, has no such adapter, or several are active.
        RegistryError: as `publish`.

    Example:
        >>> published = publish_model(model, "llama/support/french", metrics={"eval_loss": 0.42})
        >>> published.revision.reference
        'llama/support/french@1'
    """
    place = TreePath.parse(path)
    if place.is_base:
        raise UsageError(f"{path} is a base model: the path of an adapter is expected, such as {path}/NAME.")
    inner = unwrapped(model)
    name = adapter_of(inner, adapter)
    around = look_around()
    with ExitStack() as until:
        made = Path(until.enter_context(TemporaryDirectory(prefix="registry-")))
        folder = save_adapter(inner, name, made, tokenizer)
        note_commit(folder, place, loaded_commit(inner))
        note_quantised(folder, inner)
        team = until.enter_context(open_registry(create=True)) if registry is None else registry
        published = team.publish(
            folder,
            path,
            parent=parent,
            message=message,
            metrics=metrics,
            tags=tags,
            annotations={**around.annotations, **annotations},
        )
    around.tell(published.revision.reference)
    return published
