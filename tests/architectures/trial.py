"""One model type against PEFT: two links trained, published, and what the registry hands out loaded and compared.

What is measured is the target table and the arithmetic, so the facts of the table are worked out in this process and
not in the child process that `registry base add` starts for them; `tests.architectures.run` gives each type a process.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from registry.errors import RegistryError
from registry.services.local import LocalRegistry
from registry.tensors.table import architecture, architecture_child
from tests.architectures.links import VARIANTS, loaded_and_merged, parted, tied_by_peft, trained
from tests.architectures.tiny import model_classes, tiny_model

_CLASSES: Final = 4
"""Classes of a type that are tried until one loads what it saved."""
CLOSE: Final = 1e-5
"""Of the largest delta: what our weights may be from PEFT's, beside the rounding of the weights themselves."""

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Verdict:
    """What came of one variant of one type.

    ``verdict``: exact, wrong, refused (``code`` and ``text`` say how), not built, peft (PEFT itself can't), nothing
    (the type has no such modules).
    """

    type: str
    variant: str
    verdict: str
    code: str = ""
    text: str = ""
    composed: str = ""  # the composed adapter: exact, wrong, refused CODE, or peft where PEFT loses its own link, too
    cls: str = ""  # of the model
    seconds: float = 0.0

    def line(self) -> str:
        """The verdict as a line of JSON."""
        return json.dumps(asdict(self))


class _SameTies(Exception):  # noqa: N818 (it is a verdict)
    """The type ties nothing more or less when its configuration says the opposite."""


class _Different(Exception):  # noqa: N818 (it is a verdict)
    """Weights that are not those of PEFT."""


@dataclass(frozen=True)
class _Made:
    """A tiny model's folder, its class, and how many weights that class misses in it."""

    folder: Path
    cls: Any
    missing: int


@dataclass(frozen=True)
class _Base:
    """A tiny model's folder, and a registry that has it as ``base`` once it was asked for."""

    folder: Path
    cls: Any
    template: Path
    opened: list[LocalRegistry | RegistryError] = field(default_factory=list)

    def registry(self) -> LocalRegistry:
        """The registry; raises what `add_base` raised, every time."""
        if not self.opened:
            home = self.folder.with_name(self.folder.name + "-registry")
            shutil.copytree(self.template, home)
            ours = LocalRegistry.open(home)
            self.opened.append(ours)
            try:
                with facts_here():
                    ours.add_base("base", self.folder)
            except RegistryError as error:
                ours.close()
                self.opened[0] = error
        if isinstance(self.opened[0], RegistryError):
            raise self.opened[0]
        return self.opened[0]


def try_type(model_type: str, variants: Sequence[str], root: Path, registry: Path) -> Iterator[Verdict]:
    """Try the variants, in a folder that is left empty; ``registry`` is an empty registry to copy."""
    bases: dict[bool, _Base | Verdict] = {}
    for variant in variants:
        began = time.monotonic()
        other = variant == "embeddings-other"
        if other not in bases:
            try:
                made = _base(model_type, root / f"base-{int(other)}", other=other)
                bases[other] = _Base(made.folder, made.cls, registry)
            except _SameTies:
                bases[other] = Verdict(model_type, variant, "nothing")
            except Exception as error:  # noqa: BLE001 (model code raises anything; it is the verdict)
                bases[other] = Verdict(model_type, variant, "not built", type(error).__name__, _told(error))
        base = bases[other]
        if isinstance(base, Verdict):
            verdict = Verdict(model_type, variant, base.verdict, base.code, base.text)
        else:
            work = root / variant
            work.mkdir()
            try:
                verdict = _try(model_type, variant, base, work)
            except Exception as error:  # noqa: BLE001 (model code raises anything; it is the verdict)
                verdict = Verdict(model_type, variant, "failed", type(error).__name__, _told(error))
            shutil.rmtree(work, ignore_errors=True)
        yield Verdict(
            **{
                **asdict(verdict),
                "cls": "" if isinstance(base, Verdict) else base.cls.__name__,
                "seconds": round(time.monotonic() - began, 2),
            }
        )


def _base(model_type: str, folder: Path, *, other: bool) -> _Made:
    """A folder with the tiny model, as ``save_pretrained`` writes it, of the first class that loads what it saved.

    Raises whatever the model's code raises.
    """
    problem: Exception | None = None
    least: _Made | None = None
    for number, cls in enumerate(model_classes(model_type)[:_CLASSES]):
        home = folder.with_name(f"{folder.name}-{number}")
        try:
            model = tiny_model(model_type, cls)
            if other:
                first = set(model.all_tied_weights_keys)
                model = tiny_model(model_type, cls, tied=not getattr(model.config, "tie_word_embeddings", None))
                if set(model.all_tied_weights_keys) == first:
                    raise _SameTies  # noqa: TRY301 (it ends the search)
            model.save_pretrained(home)
            made = _Made(home, cls, len(_load(cls, home)[1]["missing_keys"]))
        except _SameTies:
            raise
        except Exception as error:  # noqa: BLE001 (model code raises anything; the first is told)
            problem = problem or error
            continue
        if not made.missing:
            return made
        least = least or made
    if least is None:
        raise problem or AssertionError(model_type)
    return least


def _load(cls: Any, folder: Path) -> tuple[Any, dict[str, list[str]]]:
    """The model of a folder, and the names that transformers missed and did not expect."""
    torch.manual_seed(0)  # of what the files lack
    model, info = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    names = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return model.float().eval(), names


def _try(model_type: str, variant: str, base: _Base, work: Path) -> Verdict:
    model, of_base = _load(base.cls, base.folder)
    links = VARIANTS[variant](model)
    if links is None:
        return Verdict(model_type, variant, "nothing")
    part = _as_it_is if tied_by_peft(variant) else parted
    model = part(model)
    before = _state(model)
    states, folders = [], []
    try:
        for number, options in enumerate(links):
            folders.append(work / f"link-{number}")
            model = trained(folders[-1], model, options, number)
            states.append(_state(model))
    except Exception as error:  # noqa: BLE001 (what PEFT raises is the verdict)
        return Verdict(model_type, variant, "peft", type(error).__name__, _told(error))
    if all(torch.equal(before[name], one) for name, one in states[-1].items()):
        return Verdict(model_type, variant, "peft", "nothing changed", "PEFT's merged model is the base")
    compared = _Compared(before, states[-1], of_base["missing_keys"], part)
    try:
        return _judge(model_type, variant, base, folders, compared, of_base, states[0])
    except RegistryError as error:
        return Verdict(model_type, variant, "refused", error.code, str(error))
    except _Different as error:
        return Verdict(model_type, variant, "wrong", "merged", str(error))


def _judge(
    model_type: str, variant: str, base: _Base, links: Sequence[Path],
    compared: _Compared, of_base: Mapping[str, list[str]], first: State,
) -> Verdict:  # fmt: skip
    ours = base.registry()
    reference, path = "", "base"
    for number, link in enumerate(links):
        path = f"{path}/{variant}-{number}"
        # The second link was trained on a model in memory, whose configuration goes on naming the base.
        above: dict[str, Any] = {"parent": reference, "skip_parent_check": True} if number else {}
        reference = ours.publish(link, path, **above).revision.reference
    out = links[0].parent / "merged"
    ours.fetch(reference, out, kind="merged")
    merged, of_merged = _load(base.cls, out)
    for key, names in of_merged.items():
        if more := sorted(set(names) - set(of_base[key])):
            raise _Different(f"transformers has {key} for the merged model: {', '.join(more[:4])} ({len(more)})")
    compared.check(_state(merged))
    try:
        adapter = links[0].parent / "composed"
        ours.fetch(reference, adapter, kind="lora")
        compared.check(_state(loaded_and_merged(compared.part(_load(base.cls, base.folder)[0]), adapter)))
    except RegistryError as error:
        return Verdict(model_type, variant, "exact", composed=f"refused {error.code}", text=str(error))
    except Exception as error:  # noqa: BLE001 (whatever PEFT raises on loading)
        told = _told(error)
        if not _reloads(base, links[0], compared, first):
            return Verdict(model_type, variant, "exact", composed="peft", text=f"PEFT loses its own link, too; {told}")
        return Verdict(model_type, variant, "wrong", "composed", told)
    try:
        ours.publish(adapter, f"base/{variant}-again")
    except RegistryError as error:
        return Verdict(model_type, variant, "wrong", "published again", f"{error.code}: {error}")
    return Verdict(model_type, variant, "exact", composed="exact")


def _reloads(base: _Base, link: Path, compared: _Compared, first: State) -> bool:
    """Whether PEFT loads the link that it saved."""
    try:
        again = _state(loaded_and_merged(compared.part(_load(base.cls, base.folder)[0]), link))
        _Compared(compared.before, first, compared.left_out, compared.part).check(again)
    except Exception:  # noqa: BLE001 (whatever PEFT raises on loading)
        return False
    return True


@dataclass(frozen=True)
class _Compared:
    """The base's weights, PEFT's after the path, and names that the base's files lack."""

    before: State
    after: State
    left_out: Sequence[str]
    part: Callable[[Any], Any]  # what was done to the model before it was trained

    def check(self, ours: State) -> None:
        """Compare every weight; raises `_Different` naming the worst."""
        if set(ours) != set(self.after):
            names = sorted(set(ours) ^ set(self.after))
            raise _Different(f"the models have other weights: {', '.join(names[:4])}")
        for name, one in self.after.items():
            if not one.is_floating_point() and name not in self.left_out and not torch.equal(ours[name], one):
                raise _Different(f"{name} holds other whole numbers")
        ours = {name: _unless_loaded_as_zero(one, self.before[name], self.after[name]) for name, one in ours.items()}
        moved = max(float((self.after[name] - self.before[name]).abs().max()) for name in self._floats())
        worst, at = 0.0, ""
        for name in self._floats():
            apart = (ours[name] - self.after[name]).abs().max()
            room = CLOSE * moved + 2.0**-21 * float(self.after[name].abs().max())
            if float(apart) / room > worst or not bool(torch.isfinite(apart)):
                worst, at = float(apart) / room, name
        if not worst <= 1:
            wrong = sum(
                bool((ours[name] - self.after[name]).abs().max() > CLOSE * moved + 1e-6) for name in self._floats()
            )
            apart = (ours[at] - self.after[at]).abs().max()
            raise _Different(f"{at} is {float(apart):.3g} off (deltas up to {moved:.3g}); {wrong} weights in all")

    def _floats(self) -> Iterator[str]:
        for name, one in self.after.items():
            if one.is_floating_point() and one.numel() and name not in self.left_out:
                yield name


def _unless_loaded_as_zero(ours: torch.Tensor, base: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Ours, with PEFT's row where it and the base's are all zeros: a padding row, which some models' loaders zero."""
    if ours.dim() != 2 or ours.shape != base.shape:
        return ours
    zero = (ours == 0).all(dim=1) & (base == 0).all(dim=1)
    return torch.where(zero.unsqueeze(1), after, ours) if bool(zero.any()) else ours


def _state(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


def _as_it_is(model: Any) -> Any:
    return model


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


@contextmanager
def facts_here() -> Iterator[None]:
    """Let `make_table` ask this process for the facts, not a new one."""
    asked = architecture._ask_child

    def ask(
        config: Mapping[str, Any], tensors: Mapping[str, Any], time_limit: float, memory_limit: int, *, whole: bool
    ) -> dict[str, Any]:
        del time_limit, memory_limit, whole
        shapes = {name: list(shape) for name, (_, shape) in tensors.items()}
        request = json.loads(json.dumps({"config": config, "tensors": shapes}))
        found: dict[str, Any] = json.loads(json.dumps(architecture_child.answer(request)))
        return found

    architecture._ask_child = ask  # it needs no limits
    try:
        yield
    finally:
        architecture._ask_child = asked
