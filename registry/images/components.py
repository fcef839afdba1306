"""Which modules of a base model a LoRA file changes: by component, and by the names that its modules have there.

Of a pipeline, names begin with their component. A file says its component by diffusers' name (``text_encoder_2.``) or
by one that means several (``lora_unet_`` is whatever denoiser there is, ``lora_te2_`` FLUX' T5 or Stable Diffusion's
second CLIP): then all modules that are spelled so have to be in exactly one of these components.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.images.keys import DENOISER, SpelledModule, components_of
from registry.images.native_names import Modules, family_of

Shapes = Mapping[str, tuple[int, ...]]
"""Modules of a base model, and their weights as stored: (out, in), or (out, in, kernel...)."""

_TEXT: Final = "text_model."
_NAMED: Final = 5
_TEXT_ENCODERS: Final[Mapping[str, tuple[str, ...]]] = {
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "text_encoder_3": ("text_encoder_3", "text_encoder_2"),  # T5 is the third of SD3, the second of FLUX
}


@dataclass(frozen=True)
class Meant:
    """diffusers' modules that a spelled one is, and whether the file keeps the halves of its rows the other way."""

    modules: Modules
    swapped: bool = False


def meant_modules(
    modules: Mapping[str, SpelledModule], shapes: Shapes, components: Iterable[str], chosen: str | None
) -> dict[str, Meant]:
    """What each module of a file is in a base model.

    Args:
        modules: those of the file, by what it calls them.
        shapes: those of the base model.
        components: of a pipeline, by which names begin; none of a base model that is one.
        chosen: the component that the publisher said the denoiser's names mean.

    Raises:
        InvalidAdapterError: ``several_components``, it changes more than the base model has; ``unknown_target``, its
            modules are others'; ``component_unclear``, they fit several components.
    """
    names = {one: _Names(shapes, f"{one}.") for one in components}
    if not names:
        _check_one(modules, chosen)
        return _in_one(list(modules.values()), _Names(shapes))
    if chosen is not None and chosen not in names:
        raise InvalidAdapterError(
            f"The base model has no component {shown(chosen)}: it has {', '.join(names)}.", code="unknown_target"
        )
    groups: dict[tuple[str, ...], list[SpelledModule]] = {}
    for one in modules.values():
        groups.setdefault(_candidates(one, tuple(names), chosen), []).append(one)
    found: dict[str, Meant] = {}
    for where, group in groups.items():
        found |= _in_one(group, names[_component(group, where, names)])
    return found


def _in_one(group: list[SpelledModule], names: _Names) -> dict[str, Meant]:
    """All of some modules, in one component."""
    found = {one.spelled: known for one in group if (known := names.find(one)) is not None}
    unknown = [one.spelled for one in group if one.spelled not in found]
    if unknown:
        raise _unknown(unknown, len(group))
    return found


def _candidates(one: SpelledModule, components: tuple[str, ...], chosen: str | None) -> tuple[str, ...]:
    """The components of a pipeline that a module of a file may be in."""
    if one.said in components and (chosen is None or one.component != DENOISER):
        return (one.said,)
    if one.component == DENOISER:
        return (chosen,) if chosen else components
    wanted = _TEXT_ENCODERS.get(one.component, (one.component,))
    if one.said and one.said == one.component:  # diffusers' own name
        wanted = (one.component,)
    found = tuple(name for name in wanted if name in components)
    if not found:
        raise InvalidAdapterError(
            f"The file changes {shown(one.spelled)}, and the base model has no component {wanted[0]}: it has "
            f"{', '.join(components)}. Publish it under the base model that it was trained on.",
            code="unknown_target",
        )
    return found


def _component(group: list[SpelledModule], where: tuple[str, ...], names: Mapping[str, _Names]) -> str:
    """The only one of some components that has all modules of a group."""
    count = {name: sum(names[name].find(one) is not None for one in group) for name in where}
    fits = [name for name, found in count.items() if found == len(group)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise InvalidAdapterError(
            f"{shown(group[0].spelled)} and the {len(group) - 1} other modules that are named so fit several "
            f"components of the base model: {', '.join(fits)}. Say which was trained with --component {fits[0]}.",
            code="component_unclear",
        )
    return max(count, key=lambda name: count[name])


class _Names:
    """What names of modules mean in a component."""

    def __init__(self, shapes: Shapes, lead: str = "") -> None:
        own_shapes = {name.removeprefix(lead): shape for name, shape in shapes.items() if name.startswith(lead)}
        family = family_of(own_shapes)
        own = {module: Meant((module,)) for module in own_shapes}
        own |= {module.removeprefix(_TEXT): Meant((module,)) for module in own_shapes if module.startswith(_TEXT)}
        own |= {f"{_TEXT}{module}": Meant((module,)) for module in own_shapes if f"{_TEXT}{module}" not in own}
        native = {} if family is None else dict(family.names(own_shapes))
        swapped = frozenset[str]() if family is None else family.swapped
        self._lead = lead
        self._names = {name: Meant(modules, name in swapped) for name, modules in native.items()} | own
        self._flat: dict[str, Meant | None] = {}
        for name, meant in self._names.items():
            flat = name.replace(".", "_")
            before = self._flat.setdefault(flat, meant)
            self._flat[flat] = meant if before == meant else None

    def find(self, one: SpelledModule) -> Meant | None:
        """What a spelled module is; None: the component has none, or several."""
        found = self._flat.get(one.name) if one.flat else self._names.get(one.name)
        if found is None or not self._lead:
            return found
        return replace(found, modules=tuple(self._lead + module for module in found.modules))


def _check_one(modules: Mapping[str, SpelledModule], chosen: str | None) -> None:
    """Check that a file changes one component, where the base model is one."""
    counted = list(components_of(modules.values()))
    if len(counted) > 1:
        listed = ", ".join(f"{count} modules of the {component}" for component, count in counted)
        raise InvalidAdapterError(
            f"The file changes several components of a pipeline: {listed}. This base model is one of them: publish it "
            "under the whole pipeline (`registry base add NAME DIR`, DIR with model_index.json).",
            code="several_components",
        )
    if chosen is not None:
        raise InvalidAdapterError(
            f"This base model is one component and no pipeline: leave --component {chosen} out.",
            code="component_unclear",
        )


def _unknown(unknown: list[str], count: int) -> InvalidAdapterError:
    listed = ", ".join(map(shown, unknown[:_NAMED]))
    return InvalidAdapterError(
        f"{count - len(unknown)} of the {count} modules that the file changes are in the base model; it has no "
        f"{listed}{', ...' if len(unknown) > _NAMED else ''}. Publish it under the base model that it was trained on.",
        code="unknown_target",
    )
