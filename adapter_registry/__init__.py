"""The package ``registry`` by a name that no project's own ``registry.py`` shadows.

Where ``import registry`` finds this package, both names are one: the same modules, whichever name comes first. Where it
finds a module of somebody else, that one keeps the name, and the package is loaded as ``adapter_registry`` alone.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from registry import *  # noqa: F403 - all that `registry.__all__` names
    from registry import __version__ as __version__

_NAME: Final = "registry"
_FOLDER: Final = Path(__file__).parents[1] / _NAME  # a checkout and an installation have the two side by side


def _is_found() -> bool:
    """Whether ``registry`` is this package: as it was imported in this process already, or as it would be."""
    if (loaded := sys.modules.get(_NAME)) is not None:
        file = getattr(loaded, "__file__", None)
    else:
        spec = find_spec(_NAME)
        file = None if spec is None else spec.origin
    return file is not None and Path(file).resolve().parent == _FOLDER.resolve()


class _Same:
    """Finder and loader for where both names are one: ``adapter_registry.x`` is the module ``registry.x``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del target
        if not name.startswith(f"{__name__}.") or PathFinder.find_spec(name, path) is None:
            return None
        # What `python -m` runs is run under its own name, so it is an ordinary file.
        return None if name.endswith(".__main__") else ModuleSpec(name, self)  # type: ignore[arg-type] # by its methods

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual one, which is thrown away."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_NAME + module.__name__.removeprefix(__name__))


class _Apart(SourceFileLoader):
    """Loader for where ``registry`` is somebody else's: what a module of the package imports of it comes from here.

    An import statement asks the ``__import__`` of the builtins that its module was given.
    """

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _BUILTINS
        super().exec_module(module)


class _ApartFinder:
    """Finds the modules of the package under its other name, for `_Apart` to load."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del target
        spec = PathFinder.find_spec(name, path) if name.startswith(f"{__name__}.") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Apart(name, spec.loader.path)
        return spec


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
    """An import statement of the package: ``registry`` means the package."""
    if level == 0 and (name == _NAME or name.startswith(f"{_NAME}.")):
        name = __name__ + name.removeprefix(_NAME)
    return builtins.__import__(name, globals, locals, fromlist, level)


_BUILTINS: Final = vars(builtins) | {"__import__": _import}


def _load() -> None:
    """Put the package in the place of this module."""
    if _is_found():
        sys.meta_path.insert(0, _Same())
        sys.modules[__name__] = importlib.import_module(_NAME)
        return
    file = _FOLDER / "__init__.py"
    spec = spec_from_file_location(__name__, file, loader=_Apart(__name__, str(file)))
    if spec is None or spec.loader is None or not file.is_file():
        raise ImportError(f"The rest of adapter-registry is not there, in {_FOLDER}: install it again.")
    sys.meta_path.insert(0, _ApartFinder())
    package = module_from_spec(spec)
    sys.modules[__name__] = package
    spec.loader.exec_module(package)


_load()
