"""Publishing the adapter of a model in memory, from any loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.app import open_registry
from registry.errors import UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.schemas import Published
from registry.training.models import adapter_of, loaded_commit, note_commit, note_quantised, save_adapter, unwrapped
from registry.training.surroundings import look_around


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

    It is saved to a temporary folder by PEFT and published from there; the model stays as it is. The git commit of the
    working directory and the ids of open runs of W&B and MLflow become annotations, and these runs are told the
    reference. Of several processes that train together, call it in one.

    Args:
        model: a `PeftModel`, also inside ``torch.compile`` or DistributedDataParallel.
        path: the adapter's path, ``BASE/name/name``.
        registry: an open registry. None: the one that `registry.connect` opens.
        adapter: which adapter of the model. None: the active one.
        tokenizer: is saved beside it: a tokenizer or processor.
        parent: as in `publish`; None: what the model was loaded from tells.
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
