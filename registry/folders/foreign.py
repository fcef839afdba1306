"""What a folder without PEFT's two files may hold instead, or what a single file is, and what to do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final

from registry.errors import NotFoundError
from registry.figures import command
from registry.folders.local_files import head_of

Head = Callable[[str], bytes]
"""Reads the header of a safetensors file by name."""

_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
_OTHER_ARCHIVES: Final = (".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MODEL: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin")
_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_MLX: Final = "adapters.safetensors"
_NAMED: Final = 8  # folders; more would bury the sentence
_DIFFUSERS: Final = "pytorch_lora_weights.safetensors"
_PIPELINE: Final = "model_index.json"
_LOOKED_AT: Final = 1000  # entries of a folder, for names that are near
_NEAR: Final = 0.8
_IN_PEFT: Final = "base_model.model.MODULE.lora_A.weight"

_RENAME: Final = (
    f"Write its tensors as PEFT names them, down to {_IN_PEFT} and up to lora_B, in one folder for each model that it "
    "is of, with an adapter_config.json that has r, lora_alpha and target_modules; and each module's alpha, where the "
    "file has one, in alpha_pattern: left out, the weights are wrong."
)
_AS_FILE: Final = (
    f"Publish the file itself, such as {command('registry', 'publish', 'FILE', 'BASE/NAME')}, where BASE is the "
    "base model that it was trained on."
)
_CONVERT: Final = "It is no pair of two factors a module, so convert it to a plain LoRA first."
_FUSE: Final = (
    f"Write its tensors as PEFT does, MODULE.lora_a transposed as {_IN_PEFT} and MODULE.lora_b transposed as lora_B, "
    "with r and lora_alpha = scale * rank; or publish what mlx_lm.fuse makes of it with "
    f"{command('registry', 'publish', '--full', 'DIR', 'PATH')}."
)
_FROM_ONE_FILE: Final = (
    f"It is a base model: add it with {command('registry', 'base', 'add', 'NAME', 'FILE')}, and publish its LoRAs "
    "under that name."
)
_CONFIGURE: Final = (
    f"Name it {_WEIGHTS}, put the {_CONFIG} that PEFT wrote with it beside it, and publish the folder: nothing else "
    "says lora_alpha, by which the weights are scaled."
)


@dataclass(frozen=True)
class Dialect:
    """Weights that are named as another program names them."""

    what: str  # behind "holds FILE, "
    remedy: str
    every: re.Pattern[str]
    """Matches the name of each tensor."""
    some: re.Pattern[str]
    """Matches that of at least one, and of no other dialect above."""
    adapter: bool = True


_OF_A_LORA: Final = re.compile(
    r".*lora.*|.*\.(hada|lokr|oft)_.*|.*\.(alpha|diff|diff_b|dora_scale|magnitude|scale|w_norm|b_norm|set_weight)(\.weight)?"
)
DIALECTS: Final = (
    Dialect("an adapter of LyCORIS", _CONVERT, _OF_A_LORA, re.compile(r".*\.(hada_w|lokr_w|oft_).*")),
    Dialect(
        "a LoRA as kohya's scripts write them", _AS_FILE, _OF_A_LORA, re.compile(r"lora_(unet|te\d?|transformer)_.*")
    ),
    Dialect(
        "a LoRA as ComfyUI and ai-toolkit write them",
        _AS_FILE,
        _OF_A_LORA,
        re.compile(r"(diffusion_model|text_encoders)\..*lora.*"),
    ),
    Dialect(
        "a LoRA as diffusers writes them",
        _AS_FILE,
        _OF_A_LORA,
        re.compile(r"(unet|transformer(_2)?|text_encoder(_[23])?)\..*lora.*|.*\.processor\..*_lora\d?\..*"),
    ),
    Dialect(
        "a textual inversion",
        "It changes the input and no weights, so there is nothing to compose or to merge: keep it beside the model.",
        re.compile(r"emb_params|clip_[lg]|string_to_param\..*|<[^<>]+>"),
        re.compile(r".*"),
    ),
    Dialect("an adapter of mlx-lm", _FUSE, _OF_A_LORA, re.compile(r".*\.lora_[ab]")),
    Dialect("a LoRA with factors called down and up", _RENAME, _OF_A_LORA, re.compile(r".*[._](down|up)\.weight")),
    Dialect(
        "a checkpoint of an image model in one file",
        _FROM_ONE_FILE,
        re.compile(r"(?!.*(lora|lokr|hada|oft)_).+"),
        re.compile(
            r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\..+"
            r"|(diffusion_model\.)?(double_blocks\.0\.img_attn\.qkv|input_blocks\.0\.0|joint_blocks\.0\.x_block\..+"
            r"|blocks\.0\.cross_attn\.norm_q|noise_refiner\.0\.attention\.qkv|transformer_blocks\.0\.img_mod\.1)\.weight"
        ),
        adapter=False,
    ),
)
"""From the narrowest to the widest."""
_PEFT: Final = re.compile(r"base_model\.model\..+")
_CHECKPOINT: Final = DIALECTS[-1]


def dialect_of(names: Collection[str]) -> Dialect | None:
    """How all these tensors are named, where that is certainly neither PEFT's way nor a model's."""
    for dialect in DIALECTS:
        if any(map(dialect.some.fullmatch, names)) and all(map(dialect.every.fullmatch, names)):
            return dialect
    return None


def is_checkpoint(names: Collection[str]) -> bool:
    """Whether tensors of these names are an image model in one file, maybe one that is not understood."""
    return dialect_of(names) is _CHECKPOINT


def what_it_is(
    where: str, names: Collection[str], left_out: Collection[str], others: Sequence[str], head: Head | None
) -> str | None:
    """What the folder holds and what to do, in two sentences; None: it is unknown.

    Args:
        where: the folder, as messages name it.
        names: of the files that are taken.
        left_out: names of the others.
        others: subfolders that hold an adapter.
        head: None where files can't be read yet.
    """
    return (
        _mlx(where, names)
        or _adapters_below(where, others)
        or _model(where, {*names, *left_out})
        or _foreign(where, names, head)
        or gguf_in(where, names)
        or (
            None
            if names or left_out
            else f"The folder {where} is empty; one that PEFT's save_pretrained wrote is expected."
        )
    )


def _mlx(where: str, names: Collection[str]) -> str | None:
    return f"{where} holds {_MLX}, an adapter of mlx-lm. {_FUSE}" if _MLX in names else None


def _adapters_below(where: str, others: Sequence[str]) -> str | None:
    if not others:
        return None
    held = "a folder with one" if len(others) == 1 else f"{len(others)} folders with adapters"
    named = [*others[:_NAMED], *([f"{len(others) - _NAMED} more"] if len(others) > _NAMED else [])]
    names = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return (
        f"{where} holds no adapter itself, but {held} in it: {names}. Publish one of them, such as "
        f"{command('registry', 'publish', f'{where}/{others[0]}', 'PATH')}."
    )


def _model(where: str, names: Collection[str]) -> str | None:
    if "config.json" not in names or not any(_MODEL.fullmatch(name) for name in names):
        return None
    full = command("registry", "publish", "--full", where, "PATH")
    add = command("registry", "base", "add", "NAME", where)
    return (
        f"{where} holds a whole model and no adapter. Publish a full fine-tune with {full}, or add a model of its own "
        f"with {add}."
    )


def _foreign(where: str, names: Collection[str], head: Head | None) -> str | None:
    for name in sorted(names):
        if "/" in name or not name.endswith(".safetensors"):
            continue
        tensors = () if head is None else tensor_names(head(name))
        if (found := dialect_of(tensors)) is not None:
            return f"{where} holds {name}, {found.what}. {found.remedy}"
        if _CONFIG not in names and _is_peft(tensors):
            return f"{where} holds {name}, weights of a PEFT adapter without its {_CONFIG}. {_CONFIGURE}"
        if name == _DIFFUSERS:
            return f"{where} holds {name}, a LoRA as diffusers writes them. {_AS_FILE}"
    return None


def what_files_are(folder: Path) -> str | None:
    """What the weights at the top of a folder are and what to do, where they are of another program.

    Raises:
        UnavailableError: one can't be read.
    """
    names = [file.name for file in folder.iterdir()]
    return _foreign(str(folder), names, lambda name: head_of(folder / name)) or gguf_in(str(folder), names)


def is_archive(name: str) -> bool:
    """Whether a file of that name is an archive that can be unpacked here."""
    return name.lower().endswith(_ARCHIVES)


def without_ending(name: str) -> str:
    """The name of an archive without the ending of its kind; any other unchanged."""
    ending = next((one for one in _ARCHIVES if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def is_unread_archive(name: str) -> bool:
    """Whether a file of that name is an archive of another kind."""
    return name.lower().endswith(_OTHER_ARCHIVES)


def no_folder(place: Path, expected: str = "") -> NotFoundError:
    """The error for what is named as a folder and is none: it says what a single file is, or what exists instead.

    Args:
        place: as it was given.
        expected: a clause with what was expected of a folder.

    Raises:
        UnavailableError, OSError: it can't be read.
    """
    if place.is_file():
        return NotFoundError(_what_a_file_is(place), code="missing_file")
    if str(place) == "-":
        return NotFoundError("'-' is no folder, and nothing is read from stdin: give a folder.", code="missing_file")
    return NotFoundError(f"There is no folder {str(place)!r}{expected}.{_near(place)}", code="missing_file")


def _near(place: Path) -> str:
    """A sentence with the missing folder above one, or those with a similar name; empty: none of either."""
    above = place.absolute().parent
    if not above.is_dir():
        gone = next(one for one in (above, *above.parents) if one.parent.is_dir())
        return f" {str(gone.parent)!r} has no folder {gone.name!r}."
    folders = [entry.name for entry in islice(above.iterdir(), _LOOKED_AT) if entry.is_dir()]
    *others, last = [
        str(place.with_name(name)) for name in get_close_matches(place.name, folders, n=3, cutoff=_NEAR)
    ] or [""]
    if last:
        return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    return "" if place.is_absolute() else f" It was looked for in {str(above)!r}."


def _what_a_file_is(file: Path) -> str:
    name = file.name.lower()
    if is_archive(name) or is_unread_archive(name):
        return f"{file} is an archive, but a folder is expected: unpack it, and give the folder that comes out of it."
    beside = file.with_name(_CONFIG if file.name.startswith("adapter_model.") else "config.json")
    if name.endswith(".safetensors") and not beside.is_file():
        return _what_weights_are(file, tensor_names(head_of(file)))
    if name.endswith((".gguf", ".ggml")):
        return f"{file} is for llama.cpp. Give the folder that it was made from."
    instead = "" if file.parent == Path() else f", such as {str(file.parent)!r}"
    return f"{str(file)!r} is a file, but a folder is expected{instead}."


def _what_weights_are(file: Path, tensors: Collection[str]) -> str:
    if (found := dialect_of(tensors)) is not None:
        return f"{file} is {found.what}. {found.remedy}"
    if _is_peft(tensors):
        return f"{file} holds weights of a PEFT adapter without its {_CONFIG}. {_CONFIGURE}"
    if tensors:
        return (
            f"{file} holds weights without a config.json beside it, which says of what model: give the folder that "
            "save_pretrained wrote."
        )
    return f"{file} is no safetensors file that can be read: save or download it once more."


def _is_peft(names: Collection[str]) -> bool:
    return bool(names) and all(map(_PEFT.fullmatch, names))


def tensor_names(head: bytes) -> Collection[str]:
    """The names in the header of a safetensors file; none if it is not whole, or nested too deeply to be one."""
    try:
        found = json.loads(head[8:])  # behind its length
    except (ValueError, RecursionError):
        return ()
    return [name for name in found if name != "__metadata__"] if isinstance(found, dict) else ()


def gguf_in(where: str, names: Collection[str], instead: str = "Publish the folder of PEFT") -> str | None:
    """That the files are for llama.cpp, and what to do ``instead`` with what they were made from; None: they are not.

    Of a pipeline of diffusers, that it is a base model.
    """
    if _PIPELINE in names:
        return (
            f"{where} holds a pipeline of diffusers ({_PIPELINE}), which is a base model: add it with "
            f"{command('registry', 'base', 'add', 'NAME', where)}."
        )
    for name in sorted(names):
        if name.endswith((".gguf", ".ggml")) and not any(one.endswith(".safetensors") for one in names):
            return f"{where} holds {name}, which is for llama.cpp. {instead} that it was made from."
    return None
