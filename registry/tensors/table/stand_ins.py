"""Stand-ins for packages that transformers imports for every model, and that say nothing of a model's structure.

Compilers, sharding, chat templates, assignment of detected objects: more than half of what the child process of
`registry.tensors.table.architecture` would import. A stand-in has every name that is asked of it. As a decorator it
leaves the function as it is, as a type nothing is an instance of it, and what is made of it while modules are imported
is an object without attributes. Once models are built, to call one or to ask for its truth is an error. So nothing can
be worked out by one: where it is needed after all, the child fails, and a second child imports everything.

It runs in that child only.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

NAMES: Final = (
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed._composable",
    "accelerate",
    "jinja2",
    "scipy",
    "sklearn",
)


class _StandIn(type):
    """A class of which there are no instances that say anything."""

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
        """It is asked for something: an error, once models are built."""
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
        found = _StandIn(name, (_Made,), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        del path, target
        covered = any(name == one or name.startswith(f"{one}.") for one in NAMES)
        return ModuleSpec(name, self, is_package=True) if covered else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def install() -> None:
    """From here on, imports of `NAMES` give stand-ins; what is loaded already stays."""
    sys.meta_path.insert(0, _Finder())


def models_are_built() -> None:
    """From here on, a stand-in that is called is an error."""
    _StandIn.building = True
