"""The request of a publish, checked as far as its words alone can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, get_args

from registry.errors import UsageError
from registry.operations.arguments import check_order
from registry.reference import Path, check_tag
from registry.schemas.artifacts import Extraction, FourBits, Svd
from registry.schemas.form import LeftOut, check_annotations, check_metrics, check_text
from registry.schemas.tags import NOTICE_CODES, NoticeCode

if TYPE_CHECKING:
    from registry.folders.archives import Opened


@dataclass(frozen=True)
class Labels:
    """Labels of a revision: not part of its digest, and free to change later."""

    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def checked(
        cls, message: str, metrics: Mapping[str, float], tags: Iterable[str], annotations: Mapping[str, str]
    ) -> Labels:
        """Labels that can be stored; raises `UsageError` naming what can't."""
        return cls(
            check_text("The message", message),
            check_metrics(metrics),
            tuple(check_tag(tag) for tag in tags),
            check_annotations(annotations),
        )


@dataclass(frozen=True)
class FullModel:
    """That the folder holds a full model, and which adapter is to be made of it; without rank and error none: it is
    stored exactly."""

    rank: int | None = None  # of every pair
    max_error: float | None = None  # of every module's change; the lowest ranks that reach it
    svd: Svd = "randomised"

    @property
    def is_exact(self) -> bool:
        """Whether the model is stored as it is."""
        return self.rank is None and self.max_error is None

    @classmethod
    def checked(cls, rank: int | None, max_error: float | None, svd: str) -> FullModel:
        """Options that mean something; raises `UsageError` naming what does not."""
        if svd not in get_args(Svd):
            raise UsageError(f"--svd is randomised or full, not {svd!r}.")
        if rank is not None and max_error is not None:
            raise UsageError("--rank and --max-error both say how near the adapter is to be; give one of them.")
        if rank is None and max_error is None and svd != "randomised":
            raise UsageError("--svd says how an adapter is made of a full model: give --rank N or --max-error E too.")
        if rank is not None and rank < 1:
            raise UsageError(f"--rank must be 1 or more, not {rank}.")
        if max_error is not None and not 0 < max_error < 1:
            raise UsageError(f"--max-error must be more than 0 and less than 1 (0.05 is 5 %), not {max_error}.")
        return cls(rank, max_error, "full" if svd == "full" else "randomised")


@dataclass(frozen=True)
class Publication:
    """An adapter's folder, its archive, or its repository of a Hub, and the path whose next revision it is to be."""

    folder: str | PathLike[str]
    path: Path
    labels: Labels = Labels()
    parent: str | None = None
    receipt: FilePath | None = None
    skip_parent_check: bool = False
    strict: tuple[NoticeCode, ...] = ()  # notices that refuse it
    find_parent: bool = False  # search for it among all revisions
    look_in: tuple[FilePath, ...] = ()  # folders in which the one that it was trained on may be by now
    sampled: bool = False  # of the folder that it was trained on, compare samples only
    trained_quantised: FourBits | None = (
        None  # how the weights were quantised that it was trained on; None: as it shows
    )
    component: str | None = None  # of a pipeline, that a LoRA file was trained on
    full: FullModel | None = None  # the folder holds a full model
    extracted: Extraction | None = None  # the folder holds what was made of one
    left_out: tuple[LeftOut, ...] = ()  # files of the full model's folder that did not become part of this one
    opened: Opened | None = None  # unpacks archives and reads pickles; None: these are refused
    nested: bool = False  # ``parent`` was given by no one: it is what stands for the folder above

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Publication:
        """What the arguments of `registry.operations.registry.Registry.publish` ask for.

        Raises:
            UsageError, NotFoundError: one of them is malformed, or two contradict each other.
        """
        labels = Labels.checked(given["message"], given["metrics"], given["tags"], given["annotations"])
        strict, folder, path = strict_codes(given["strict"]), given["folder"], given["path"]
        check_order(folder, path, Path.parse, "registry publish {folder} {name}", "the folder")
        places = tuple(FilePath(place) for place in given["look_in"])
        find_parent, skips, sampled = given["find_parent"], given["skip_parent_check"], given["sampled"]
        if find_parent and skips:
            raise UsageError("--find-parent proves the parent, and --skip-parent-check trusts it: give one of them.")
        if places and not find_parent:
            raise UsageError("--look-in says where --find-parent looks: give --find-parent too.")
        if sampled and (find_parent or skips):
            what = "--find-parent" if find_parent else "--skip-parent-check"
            raise UsageError(
                f"--sampled compares samples of what it was trained on, and {what} does not: give one of them."
            )
        receipt = None if given["receipt"] is None else FilePath(given["receipt"])
        how = None if given["trained_quantised"] is None else FourBits.parse(given["trained_quantised"])
        made = cls(
            folder, Path.parse(path), labels, given["parent"], receipt, skips, strict, find_parent, places, sampled, how
        )
        made = replace(made, component=given["component"])
        rank, max_error, svd = given["rank"], given["max_error"], given["svd"]
        if not given["full"]:
            if rank is not None or max_error is not None or svd != "randomised":
                raise UsageError("--rank, --max-error and --svd are for a full model: give --full too.")
            return made
        of_adapters = ("find_parent", "skip_parent_check", "sampled", "trained_quantised", "component")
        if wrong := next((name for name in of_adapters if getattr(made, name)), None):
            raise UsageError(
                f"--{wrong.replace('_', '-')} is about the model that an adapter was trained on, and a full model "
                "names none: give its parent with --parent REF or --receipt FILE."
            )
        return replace(made, full=FullModel.checked(rank, max_error, svd))


def strict_codes(strict: bool | Iterable[str]) -> tuple[NoticeCode, ...]:
    """The codes of notices that refuse a publish; True: all.

    Raises:
        UsageError: the code is unknown.
    """
    if isinstance(strict, bool):
        return NOTICE_CODES if strict else ()
    given = (strict,) if isinstance(strict, str) else tuple(strict)
    unknown = [code for code in given if code not in NOTICE_CODES]
    if unknown:
        raise UsageError(
            f"There is no notice {unknown[0]!r} that a publish could be strict about. There are: "
            f"{', '.join(NOTICE_CODES)}."
        )
    return tuple(code for code in NOTICE_CODES if code in given)
