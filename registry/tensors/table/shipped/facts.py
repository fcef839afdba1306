"""Facts about a denoiser of diffusers from its config alone, as if its class had been built.

`registry.tensors.table.architecture_facts` says them of a class that was built. Tests compare both for real and for
drawn configs. A service takes these for the classes that are known here even where diffusers is installed, so the table
of a base model depends on no installation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from registry.tensors.table.shipped.double_stream import flux_1, flux_2, qwen_image, sd_3
from registry.tensors.table.shipped.modules import Module, NotCoveredError, Settings
from registry.tensors.table.shipped.single_stream import wan, z_image
from registry.tensors.table.shipped.unet import unet

SOURCE: Final = "diffusers (shipped)"

CLASSES: Final[Mapping[str, Callable[[Settings], Iterator[Module]]]] = {
    "UNet2DConditionModel": unet,
    "SD3Transformer2DModel": sd_3,
    "FluxTransformer2DModel": flux_1,
    "Flux2Transformer2DModel": flux_2,
    "QwenImageTransformer2DModel": qwen_image,
    "WanTransformer3DModel": wan,
    "ZImageTransformer2DModel": z_image,
}

# Modules that a config may describe: a fixed number, and some for each tensor that the files hold.
_ALLOWED: Final = 20_000
_ALLOWED_A_TENSOR: Final = 40


def shipped_facts(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts about the class that a config names; None: that class, or one of its settings, is not known here.

    Args:
        config: the parsed config.json of a component.
        tensors: the names of the file tensors.
    """
    name = config.get("_class_name")
    made = CLASSES.get(name) if isinstance(name, str) else None
    if made is None:
        return None
    most = _ALLOWED + _ALLOWED_A_TENSOR * len(tensors)
    modules: list[Module] = []
    try:
        for module in made(Settings(config)):
            modules.append(module)
            if len(modules) > most:
                return None
    except NotCoveredError:
        return None
    held = [(one.name, [*(key for key, _ in one.parameters), *one.buffers]) for one in modules]
    parameters = [f"{module}.{key}" if module else key for module, keys in held for key in keys]
    return {
        "source": SOURCE,
        "architecture": name,
        "named": True,
        "model_type": None,
        "prefix": "",
        "output_module": None,
        "modules": [
            [one.name, one.kind.value, dict(one.geometry), [[key, list(shape)] for key, shape in one.parameters]]
            for one in modules
            if one.parameters
        ],
        "direct": {name: name for name in parameters if name in tensors},
        "conversions": [],
        "ties": [],
        "flag_ties": [],
        "renamed": [],
    }
