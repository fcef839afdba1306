"""The kinds of artifacts: a row a kind, with all that is asked of it where no tensor is at hand.

To add one, name it in `registry.schemas.form.ArtifactKind`, write its row here, its builder in a file of
`registry.services.artifacts.kinds` with a line in the table there, and its member of `registry.cli.options.Kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from registry.errors import UsageError
from registry.schemas.artifacts import Options
from registry.schemas.form import ArtifactKind

OPTIONS: Final = tuple(name for name in Options.model_fields if name != "kind")
"""What an artifact is asked for by, beside its kind."""

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
    """Can be computed on a client's machine, on base weights that are there (``--base-dir``)."""

    @property
    def takes(self) -> tuple[str, ...]:
        """The options that it may be asked for with."""
        return tuple(option for option in OPTIONS if option not in self.refuses)

    def check_base_dir(self) -> None:
        """Refuse ``--base-dir`` for what is not computed there; raises `UsageError`."""
        if not self.on_base_dir:
            raise UsageError(f"--base-dir needs --as merged, not --as {self.name}: it is for merging on this machine.")


def _about_composed(kind: ArtifactKind) -> dict[str, str]:
    """The options of composed adapters, as another kind refuses them."""
    return {
        option: f"{_flag(option)} needs --as lora, not --as {kind}: it applies to composed adapters."
        for option in ("since", "rank", "max_error", "uniform")
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
    Kind("merged", "hf", "merged", refuses=_about_composed("merged"), is_model=True, on_base_dir=True),
    Kind("lora", "hf-lora", "composed", refuses=_about_merged("lora"), is_composed=True),
    Kind(
        "published",
        "hf-published",
        "as published",
        refuses={
            "dtype": "--dtype can't be given with --as published: these are the bytes as they were published.",
            **_about_composed("published"),
            **_about_merged("published"),
        },
        is_verbatim=True,
        tip_only=True,
    ),
)

KINDS: Final[Mapping[ArtifactKind, Kind]] = {row.name: row for row in _ROWS}


def check_options(options: Options) -> None:
    """Refuse what an artifact of this kind can't be asked for with; raises `UsageError`."""
    for option, sentence in KINDS[options.kind].refuses.items():
        if getattr(options, option) != Options.model_fields[option].default:
            raise UsageError(sentence)
    if options.dtype in ("keep", "fp8") and options.kind != "merged":
        raise UsageError(
            f"--dtype {options.dtype} needs --as merged, not --as {options.kind}: it is for quantised bases."
        )
    if options.min_fidelity is not None and options.dtype != "fp8":
        raise UsageError("--min-fidelity needs --dtype fp8: it says how much of the change has to survive.")
