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
from tests.architectures.compared import Compared, Different, Output, State
from tests.architectures.links import (
    VARIANTS,
    Options,
    loaded_and_merged,
    loaded_by_peft,
    parted,
    tied_by_peft,
    trained,
)
from tests.architectures.tiny import model_classes, tiny_model

_CLASSES: Final = 4
"""Classes of a type that are tried until one loads what it saved."""


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
    parent: str = ""  # by which word the first link was found below the second, which was trained on its merged folder
    composed: str = ""  # the composed adapter: exact, wrong, refused CODE, or peft where PEFT loses its own link, too
    cls: str = ""  # of the model
    seconds: float = 0.0

    def line(self) -> str:
        """The verdict as a line of JSON."""
        return json.dumps(asdict(self))


class _SameTies(Exception):  # noqa: N818 (it is a verdict)
    """The type ties nothing more or less when its configuration says the opposite."""


@dataclass(frozen=True)
class _Made:
    """A tiny model's folder, its class, and how many weights that class misses in it."""

    folder: Path
    cls: Any
    missing: int


@dataclass(frozen=True)
class Base:
    """A tiny model's folder, its class, and a registry that has it as ``base`` once it was asked for.

    ``template`` is an empty registry to copy.
    """

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
    bases: dict[bool, Base | Verdict] = {}
    for variant in variants:
        began = time.monotonic()
        other = variant == "embeddings-other"
        if other not in bases:
            try:
                made = _base(model_type, root / f"base-{int(other)}", other=other)
                bases[other] = Base(made.folder, made.cls, registry)
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


def _try(model_type: str, variant: str, base: Base, work: Path) -> Verdict:
    links = VARIANTS[variant](_load(base.cls, base.folder)[0])
    if links is None:
        return Verdict(model_type, variant, "nothing")
    return try_links(model_type, variant, base, links, work, as_it_is if tied_by_peft(variant) else parted)


def try_links(
    model_type: str, variant: str, base: Base, links: Sequence[Options], work: Path, part: Callable[[Any], Any],
    output: Output | None = None,
) -> Verdict:  # fmt: skip
    """Train the links, each on the merged model below it, publish them, and judge what is handed out.

    Args:
        model_type: As the verdict says it.
        variant: Likewise; and the adapters' names.
        base: What the first link is trained on.
        links: Arguments of ``LoraConfig``, root first.
        work: An empty folder.
        part: What is done to a model before it is trained or compared: `parted` or `as_it_is`.
        output: What a model makes of an input. With it, the outputs of the last link as it was trained are compared
            too, and the merged weights with PEFT's merge of the saved links in float64.
    """
    model, of_base = _load(base.cls, base.folder)
    model = part(model)
    before = _state(model)
    states, folders, proven = [], [], []
    outputs: list[torch.Tensor] = []
    try:
        for number, options in enumerate(links):
            folders.append(work / f"link-{number}")
            seen = _nothing if output is None else lambda wrapped: outputs.append(output(wrapped))
            alone = number > 0 and output is None
            stand = _saved_and_loaded(model, base.cls, work / f"stand-{number}", part) if alone else None
            model, found = _trained_on(stand, model, folders[-1], options, number, seen)
            proven.append(found)
            states.append(_state(model))
    except Exception as error:  # noqa: BLE001 (what PEFT raises is the verdict)
        if output is not None and len(outputs) == len(folders) == 1:  # it could not merge what it trained
            return _judge_trained(model_type, variant, base, folders[0], (output, outputs[0]))
        return Verdict(model_type, variant, "peft", type(error).__name__, _told(error))
    if all(torch.equal(before[name], one) for name, one in states[-1].items()):
        return Verdict(model_type, variant, "peft", "nothing changed", "PEFT's merged model is the base")
    judged = None if output is None else (output, outputs[-1])
    compared = Compared(before, states[-1], of_base["missing_keys"], part, judged)
    try:
        return _judge(model_type, variant, base, folders, compared, of_base, states[0], proven=proven)
    except RegistryError as error:
        return Verdict(model_type, variant, "refused", error.code, str(error))
    except Different as error:
        return Verdict(model_type, variant, "wrong", "merged", str(error))


def _saved_and_loaded(model: Any, cls: Any, folder: Path, part: Callable[[Any], Any]) -> Any | None:
    """The merged model as it is loaded from a folder that it is saved into; None where that is another one."""
    try:
        model.save_pretrained(folder)
        loaded = part(_load(cls, folder)[0])
    except Exception:  # noqa: BLE001 (model code raises anything)
        return None
    wanted, found = _state(model), _state(loaded)
    same = wanted.keys() == found.keys() and all(torch.equal(wanted[name], one) for name, one in found.items())
    return loaded if same else None


def _trained_on(
    stand: Any | None, model: Any, folder: Path, options: Options, number: int, seen: Callable[[Any], None]
) -> tuple[Any, bool]:
    """A link trained on the model that was loaded, or, where PEFT can't, on the one in memory; and whether it was."""
    if stand is not None:
        try:
            return trained(folder, stand, options, number, seen), True
        except Exception:  # noqa: BLE001 (whatever PEFT raises about a model that is loaded alone)
            shutil.rmtree(folder, ignore_errors=True)
    return trained(folder, model, options, number, seen), False


def _judge(
    model_type: str, variant: str, base: Base, links: Sequence[Path],
    compared: Compared, of_base: Mapping[str, list[str]], first: State, *, proven: Sequence[bool],
) -> Verdict:  # fmt: skip
    ours = base.registry()
    reference, path, parent = "", "base", ""
    for number, link in enumerate(links):
        path = f"{path}/{variant}-{number}"
        # What was trained on a model in memory has a configuration that goes on naming the base.
        above: dict[str, Any] = (
            {"parent": reference, "skip_parent_check": True} if number and not proven[number] else {}
        )
        published = ours.publish(link, path, **above).revision
        if number and published.parent != reference:
            raise Different(f"the parent of link {number} is {published.parent}, and {reference} was trained on")
        reference, parent = published.reference, published.parent_known_by or ""
    out = links[0].parent / "merged"
    ours.fetch(reference, out, kind="merged")
    merged, of_merged = _load(base.cls, out)
    for key, names in of_merged.items():
        if more := sorted(set(names) - set(of_base[key])):
            raise Different(f"transformers has {key} for the merged model: {', '.join(more[:4])} ({len(more)})")
    compared.check(_state(merged))
    compared.check_output(merged)
    if compared.judged is not None:
        exact = compared.part(_load(base.cls, base.folder)[0]).double()
        for link in links:
            exact = loaded_and_merged(exact, link)
        compared.check_rounding(_state(merged), _state(exact))
    try:
        adapter = links[0].parent / "composed"
        ours.fetch(reference, adapter, kind="lora")
        loaded = loaded_and_merged(compared.part(_load(base.cls, base.folder)[0]), adapter)
        compared.check(_state(loaded))
        compared.check_output(loaded)
    except RegistryError as error:
        return Verdict(model_type, variant, "exact", composed=f"refused {error.code}", text=str(error), parent=parent)
    except Exception as error:  # noqa: BLE001 (whatever PEFT raises on loading)
        told = _told(error)
        if not _reloads(base, links[0], compared, first):
            told = f"PEFT loses its own link, too; {told}"
            return Verdict(model_type, variant, "exact", composed="peft", text=told, parent=parent)
        return Verdict(model_type, variant, "wrong", "composed", told)
    try:
        ours.publish(adapter, f"base/{variant}-again")
    except RegistryError as error:
        return Verdict(model_type, variant, "wrong", "published again", f"{error.code}: {error}")
    return Verdict(model_type, variant, "exact", composed="exact", parent=parent)


def _judge_trained(
    model_type: str, variant: str, base: Base, link: Path, judged: tuple[Output, torch.Tensor]
) -> Verdict:
    """The verdict by outputs alone, of one link that PEFT can't merge."""
    compared = Compared({}, {}, (), as_it_is, judged)
    try:
        ours = base.registry()
        reference = ours.publish(link, f"base/{variant}").revision.reference
        for kind in ("merged", "lora"):
            ours.fetch(reference, link.parent / kind, kind=kind)
        compared.check_output(_load(base.cls, link.parent / "merged")[0])
        compared.check_output(loaded_by_peft(_load(base.cls, base.folder)[0], link.parent / "lora"))
    except RegistryError as error:
        return Verdict(model_type, variant, "refused", error.code, str(error))
    except Different as error:
        return Verdict(model_type, variant, "wrong", "output", str(error))
    return Verdict(model_type, variant, "exact", composed="exact", text="by outputs: PEFT can't merge it")


def _reloads(base: Base, link: Path, compared: Compared, first: State) -> bool:
    """Whether PEFT loads the link that it saved."""
    try:
        again = _state(loaded_and_merged(compared.part(_load(base.cls, base.folder)[0]), link))
        Compared(compared.before, first, compared.left_out, compared.part).check(again)
    except Exception:  # noqa: BLE001 (whatever PEFT raises on loading)
        return False
    return True


def _state(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


def as_it_is(model: Any) -> Any:
    """The model: for what PEFT keeps tied itself."""
    return model


def _nothing(_: Any) -> None:
    """For models whose outputs are not compared."""


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


@contextmanager
def facts_here() -> Iterator[None]:
    """Let `make_table` ask this process for the facts, not a new one."""
    asked = architecture._ask_child

    def ask(
        config: Mapping[str, Any],
        tensors: Mapping[str, Any],
        time_limit: float,
        memory_limit: int,
        *,
        library: str,
        whole: bool,
    ) -> dict[str, Any]:
        del time_limit, memory_limit, whole
        shapes = {name: list(shape) for name, (_, shape) in tensors.items()}
        request = json.loads(json.dumps({"library": library, "config": config, "tensors": shapes}))
        found: dict[str, Any] = json.loads(json.dumps(architecture_child.answer(request)))
        return found

    architecture._ask_child = ask  # it needs no limits
    try:
        yield
    finally:
        architecture._ask_child = asked
