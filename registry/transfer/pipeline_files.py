"""The folder of a pipeline: model_index.json, a folder for each component, and which files of it hold the weights.

diffusers saves several models as one pipeline, each in a folder of its own, next to schedulers and tokenizers
(``DiffusionPipeline.save_pretrained``). The tensors of each model are named by themselves there; here they are named
with their component. Of each model one variant is taken (``diffusion_pytorch_model.fp16.safetensors``): variants are
other numbers. Nothing of a pipeline is run, so code in its folder is refused. Source: diffusers 0.42
(``pipelines/pipeline_loading_utils``, ``variant_compatible_siblings``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.files.header import lead_of
from registry.files.strict_json import shown
from registry.schemas import LeftOut

PIPELINE: Final = "model_index.json"
_CONFIG: Final = "config.json"
_WITHOUT_WEIGHTS: Final = re.compile(r"(Scheduler|Tokenizer|Processor|FeatureExtractor|Guider|Guidance)(Fast)?$")
_WEIGHTS: Final = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>[\w-]+?))?(?P<shard>-\d+-of-\d+)?"
    r"(\.(?P<older>[A-Za-z]\w*))?\.safetensors"
)
_INDEX: Final = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)(\.(?P<older>[\w-]+))?\.safetensors\.index(\.(?P<variant>[\w-]+))?\.json"
)

Document = Callable[[str], Mapping[str, Any] | None]
"""Reads a JSON object by its name; None: it does not exist."""


@dataclass(frozen=True)
class Component:
    """A model of a pipeline."""

    name: str  # its folder: unet
    config: Mapping[str, Any]
    shards: tuple[str, ...]  # unet/diffusion_pytorch_model.safetensors
    weight_map: Mapping[str, str] | None  # of its index, with the component in the names of tensors and files


@dataclass(frozen=True)
class Pipeline:
    """A pipeline by role, as far as names and documents show.

    Attributes:
        class_name: of model_index.json.
        components: its models, by name.
        identity: files that say what it is besides the weights: model_index.json, schedulers, tokenizers, configs.
        left_out: weights that are not part of it.
    """

    class_name: str
    components: Mapping[str, Component]
    identity: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def shards(self) -> tuple[str, ...]:
        """The files that hold the weights."""
        return tuple(path for one in self.components.values() for path in one.shards)

    @property
    def weight_map(self) -> Mapping[str, str] | None:
        """Of all components with an index."""
        maps = [one.weight_map for one in self.components.values() if one.weight_map is not None]
        return {name: path for one in maps for name, path in one.items()} if maps else None


def is_pipeline_document(path: str) -> bool:
    """Whether a file is one of the documents that are read of a pipeline."""
    folder, _, name = path.rpartition("/")
    if not folder:
        return name == PIPELINE
    return "/" not in folder and (name == _CONFIG or _INDEX.fullmatch(name) is not None)


def list_pipeline(where: str, names: Collection[str], document: Document, variant: str | None) -> Pipeline:
    """Sort the files of a pipeline.

    Args:
        where: how messages name the place of the files.
        names: of all files.
        document: reads model_index.json, configurations and indexes of components.
        variant: of the weights, where a component has it; None: the files without one, or the only one that is there.

    Raises:
        InvalidBaseError: ``bad_config``, ``missing_file``, ``bad_index``, ``remote_code``, ``quantised_base``,
            ``variant_unclear``.
    """
    index = document(PIPELINE) or {}
    class_name, listed = _components(where, index, names)
    found: dict[str, Component] = {}
    variants: set[str] = set()
    for name, kind in listed.items():
        files = [path for path in names if path.startswith(f"{name}/") and "/" not in path[len(name) + 1 :]]
        if not files:
            raise InvalidBaseError(
                f"{where} has no folder {name}, which {PIPELINE} names. Download the whole pipeline.",
                code="missing_file",
            )
        one = _component(where, name, kind, files, document, variant, variants)
        if one is not None:
            found[name] = one
    if not found:
        raise InvalidBaseError(f"No component that {PIPELINE} of {where} names has weights.", code="missing_file")
    if variant is not None and variant not in variants:
        there = f"; it has {', '.join(sorted(variants))}" if variants else ""
        raise InvalidBaseError(
            f"No component of {where} has weights of the variant {shown(variant)}{there}. Leave --variant out, or name "
            "one that is there.",
            code="variant_unclear",
        )
    taken = {path for one in found.values() for path in one.shards}
    left_out = tuple(_left_out(names, taken, set(listed)))
    gone = {one.path for one in left_out} | taken
    inside = tuple(sorted(path for path in names if path.partition("/")[0] in listed and path not in gone))
    return Pipeline(class_name, found, (PIPELINE, *inside), left_out)


def _components(where: str, index: Mapping[str, Any], names: Collection[str]) -> tuple[str, dict[str, str]]:
    """The class, and the components that are there with theirs, from model_index.json."""
    class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise InvalidBaseError(
            f"{PIPELINE} names {shown(class_name)} as its class, where the name of one of diffusers is expected: code "
            "that comes with a pipeline is not run.",
            code="bad_config" if class_name is None else "remote_code",
        )
    listed = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue  # an option of the pipeline
        if len(value) != 2 or not re.fullmatch(r"\w+", name):
            raise InvalidBaseError(
                f"{PIPELINE} says {shown(name)}: {shown(value)}; a library and a class are expected.", code="bad_config"
            )
        library, kind = value
        if library is None:
            continue
        code = [path for path in (f"{library}.py", f"{name}/{library}.py") if path in names]
        if code or not isinstance(library, str) or not isinstance(kind, str) or "." in library:
            raise InvalidBaseError(
                f"The component {shown(name)} of {where} is of a class in {code[0] if code else shown(library)}: code "
                "that comes with a pipeline is not run, so its weights can't be understood.",
                code="remote_code",
            )
        listed[name] = kind
    return class_name, listed


def _component(
    where: str, name: str, kind: str, files: list[str], document: Document, variant: str | None, variants: set[str]
) -> Component | None:
    """A component that has weights; None: it has none (a scheduler, a tokenizer). ``variants`` gets what is there."""
    config, by_variant = document(f"{name}/{_CONFIG}"), _weights(files)
    variants |= {one for one in by_variant if one is not None}
    if not by_variant and _WITHOUT_WEIGHTS.search(kind):
        return None
    if config is None or not by_variant:
        missing = _CONFIG if config is None else "safetensors weights"
        raise InvalidBaseError(
            f"{where}: the component {name} ({kind}) has no {missing}. Save the pipeline again with "
            "save_pretrained(..., safe_serialization=True); pickles (.bin, .ckpt) are never read.",
            code="missing_file",
        )
    if config.get("quantization_config") is not None:
        raise InvalidBaseError(
            f"{where}: the component {name} is quantised (quantization_config), which is read of models of one "
            "component only. Add the pipeline that it was made from.",
            code="quantised_base",
        )
    if config.get("auto_map") is not None:
        raise InvalidBaseError(
            f"{where}: the component {name} is of a class that comes with it (auto_map), and code that comes with a "
            "pipeline is not run.",
            code="remote_code",
        )
    chosen = _chosen(where, name, by_variant, variant)
    index = _index_of(files, chosen, document)
    shards = tuple(sorted(by_variant[chosen]))
    if index is None:
        if len(shards) > 1:
            raise InvalidBaseError(
                f"{where}: the component {name} has {len(shards)} files of weights and no index that describes them.",
                code="bad_index",
            )
        return Component(name, config, shards, None)
    path, weight_map = index
    named = _named(path, name, weight_map)
    if set(named.values()) != set(shards):
        other = min(set(named.values()) ^ set(shards))
        raise InvalidBaseError(
            f"{path} and the files of the component {name} differ: {shown(other)} is in one of them only. Save it "
            "again.",
            code="bad_index",
        )
    return Component(name, config, shards, named)


def _weights(files: Iterable[str]) -> dict[str | None, list[str]]:
    """The files of weights in a component's folder, by variant."""
    found: dict[str | None, list[str]] = {}
    for path in files:
        match = _WEIGHTS.fullmatch(path.rpartition("/")[2])
        if match is not None:
            found.setdefault(match["variant"] or match["older"], []).append(path)
    return found


def _chosen(where: str, name: str, found: Collection[str | None], variant: str | None) -> str | None:
    if variant in found:
        return variant
    if None in found:
        return None
    others = sorted(one for one in found if one is not None)
    if len(others) == 1:
        return others[0]
    raise InvalidBaseError(
        f"{where}: the component {name} has weights of the variants {', '.join(others)}, which are other numbers. Say "
        f"which is meant with --variant {others[0]}.",
        code="variant_unclear",
    )


def _index_of(
    files: Iterable[str], variant: str | None, document: Document
) -> tuple[str, Mapping[str, Any] | None] | None:
    """The index of the variant's weights in a component's folder, and its map."""
    for path in files:
        match = _INDEX.fullmatch(path.rpartition("/")[2])
        if match is not None and (match["variant"] or match["older"]) == variant:
            found = document(path)
            return path, None if found is None else found.get("weight_map")
    return None


def _named(path: str, component: str, weight_map: Any) -> dict[str, str]:
    """An index's map with the component in the names of tensors and files."""
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidBaseError(f"{path} needs a weight_map from tensor names to file names.", code="bad_index")
    lead = lead_of(path)
    for shard in weight_map.values():
        if "/" in shard or "\\" in shard:
            raise InvalidBaseError(
                f"{path} names the file {shown(shard)}, which is not a plain file name in the folder.",
                code="path_traversal",
            )
    return {lead + name: f"{component}/{shard}" for name, shard in weight_map.items()}


def _left_out(names: Iterable[str], taken: Collection[str], components: Collection[str]) -> Iterator[LeftOut]:
    for path in sorted(names):
        folder, _, name = path.rpartition("/")
        if path in taken:
            continue
        if name.endswith(".py"):
            yield LeftOut(path=path, reason="code, which is never run")
        elif name.endswith(".safetensors"):
            other = _WEIGHTS.fullmatch(name) if folder in components else None
            yield LeftOut(path=path, reason=_reason(other))
        elif (index := _INDEX.fullmatch(name)) is not None and not _describes(index, folder, taken):
            yield LeftOut(path=path, reason="index of other weights")


def _reason(other: re.Match[str] | None) -> str:
    if other is None:
        return "safetensors file that is not part of the model's weights"
    return f"weights of another variant ({other['variant'] or other['older'] or 'none'})"


def _describes(index: re.Match[str], folder: str, taken: Iterable[str]) -> bool:
    """Whether an index is that of weights that are taken."""
    wanted = index["variant"] or index["older"]
    found = (_WEIGHTS.fullmatch(path.rpartition("/")[2]) for path in taken if path.startswith(f"{folder}/"))
    return any(one is not None and (one["variant"] or one["older"]) == wanted for one in found)
