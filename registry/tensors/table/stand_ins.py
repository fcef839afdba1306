"""Stand-ins for packages that torch and transformers import for every model, and that don't affect its structure.

Compilers, sharding, what operations do on a meta device, processors, assignment of detected objects: three quarters of
what the child process of `registry.tensors.table.architecture` would import. A stand-in has any attribute that is
looked up. As a decorator it returns the function unchanged, as a type nothing is an instance of it, and a call of it
while modules are imported gives an object without attributes. Once models are built, calling one or taking its truth
value is an error. So no result depends on one: if one is needed after all, the child fails, and a second child imports
everything.

`BARE` packages have their modules, but none of the names that they collect from them: to collect them, transformers
reads the source of all its models.

It runs in that child only.
"""

from __future__ import annotations

import re
import sys
import typing
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

NAMES: Final = (
    "torch._dynamo",
    "torch._export",
    "torch._meta_registrations",
    "torch.export",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed._composable",
    "transformers.processing_utils",
    "accelerate",
    "jinja2",
    "scipy",
    "sklearn",
)
BARE: Final = ("transformers", "transformers.models")


class _StandIn(type):
    """A class that no object is a meaningful instance of."""

    building = False

    def __call__(cls, *given: Any, **options: Any) -> Any:
        del options
        if given and callable(given[0]) and not isinstance(given[0], _StandIn):
            return given[0]  # a decorator
        cls.needed()
        return super().__call__()

    def __bool__(cls) -> bool:
        cls.needed()
        return True

    def needed(cls) -> None:
        """An attribute is looked up: an error, once models are built."""
        if _StandIn.building:
            raise RuntimeError(f"{cls.__module__}.{cls.__name__} is not loaded here")


class _Made(metaclass=_StandIn):
    """What a stand-in makes: a value for a table of a module that is imported, or a decorator with options."""

    def __call__(self, function: Any) -> Any:
        if not callable(function):
            raise TypeError(f"{type(self).__module__}.{type(self).__name__} is not loaded here")
        return function

    def __bool__(self) -> bool:
        type(self).needed()
        return True


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in typing.__all__:  # the replaced module takes it from typing
            return getattr(typing, name)
        found = _StandIn(name, (_Made,), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _Bare(ModuleType):
    """A package without what its own file does."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: object = None) -> ModuleSpec | None:
        del target
        if name in BARE:
            return self._bare(PathFinder.find_spec(name, path))
        covered = any(name == one or name.startswith(f"{one}.") for one in NAMES)
        return ModuleSpec(name, self, is_package=True) if covered else None

    def _bare(self, real: ModuleSpec | None) -> ModuleSpec | None:
        if real is None:
            return None
        spec = ModuleSpec(real.name, self, origin=real.origin, is_package=True)
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Bare(spec.name) if spec.name in BARE else _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run; a bare package has its version, if known."""
        spec = module.__spec__
        if isinstance(module, _Bare) and spec is not None and spec.origin is not None:
            version = re.search(r'^__version__ = "([^"]+)"$', Path(spec.origin).read_text("utf-8"), re.MULTILINE)
            if version is not None:
                module.__dict__["__version__"] = version[1]


def install() -> None:
    """From here on, imports of `NAMES` and `BARE` give stand-ins; what is loaded already stays."""
    sys.meta_path.insert(0, _Finder())


def is_bare(package: ModuleType) -> bool:
    """Whether a package has none of the names that it collects from its modules."""
    return isinstance(package, _Bare)


def models_are_built() -> None:
    """From here on, a stand-in that is called is an error."""
    _StandIn.building = True
