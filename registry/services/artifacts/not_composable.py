"""The errors for what can't be done where an exact revision replaces tensors instead of adding to them."""

from __future__ import annotations

from registry.errors import InvalidAdapterError
from registry.services.lineage import Link, LoadedPath


def exact_link(link: Link) -> InvalidAdapterError:
    """A link where one is expected that adds to the weights."""
    return InvalidAdapterError(
        f"{link.reference} is an exact full fine-tune, which replaces tensors of the base model instead of adding to "
        f"them, so this can't be done with it; `registry fetch {link.reference} --as merged` gives its weights, and "
        "publishing the model with `--full --rank N` makes an adapter of it.",
        code="not_composable",
    )


def exact_between(path: LoadedPath, exact: Link) -> InvalidAdapterError:
    """What some links of a path change together."""
    way = f"; after it, with --since {exact.reference}, they have" if path.live else ""
    return InvalidAdapterError(
        f"{exact.reference} is an exact full fine-tune, which replaces tensors of the base model, so the links of "
        f"{path.reference} have no delta together{way}. `--as merged` gives its weights.",
        code="not_composable",
    )


def exact_as_lora(path: LoadedPath, exact: Link) -> InvalidAdapterError:
    """A path that no LoRA equals."""
    fetch = f"registry fetch {path.reference}"
    below = f"`{fetch} --since {exact.reference}` the adapters below it as one, " if path.live else ""
    return InvalidAdapterError(
        f"No LoRA equals {path.reference}: {exact.reference} is an exact full fine-tune, which replaces tensors of "
        f"the base model. `{fetch} --as merged` gives the model, {below}and publishing that model with "
        "`--full --rank N` a LoRA that is near it.",
        code="not_composable",
    )
