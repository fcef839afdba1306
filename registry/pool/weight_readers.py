"""How modules of a running model use weights: by which product, for each row apart or not, and whose weights they read.

Some modules read the weights of others instead of calling them. The source of their classes says so.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import nn

_SOME_TOKENS: Final = re.compile(r"(^|\.)experts\.")  # modules of one expert get the tokens that are sent there
_RELATIVE: Final = re.compile("relat|rel_|distance|bias")  # embeddings of pairs of positions have no rows
_CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Form(Enum):
    """How a module multiplies by its weight."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV = "convolution"


def form_of(module: nn.Module) -> Form | None:
    """The form of a module; None where its class does something of its own with the weight."""
    kind = type(module)
    if isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward:
        return Form.LINEAR
    if is_conv1d(module):
        return Form.LINEAR
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        known = kind.forward is nn.Embedding.forward or is_scaled(kind)
        return Form.EMBEDDING if known else None
    if isinstance(module, _CONVS) and not isinstance(module, nn.modules.conv._ConvTransposeNd):
        plain = kind in _CONVS and module.groups == 1 and module.padding_mode == "zeros"
        return Form.CONV if plain else None
    return None


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, a linear module whose weight is stored as (in, out)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def is_scaled(kind: type[nn.Module]) -> bool:
    """Whether a class of embeddings multiplies what it looks up with its ``embed_scale``."""
    return kind.__name__.endswith("ScaledWordEmbedding") and kind.__module__.startswith("transformers.models.")


def is_by_row(name: str, module: nn.Module, inputs: Iterable[object]) -> bool:
    """Whether each row of the output comes from the same row of the inputs alone, and these are rows of the batch."""
    if any(True for one in module.children() if any(True for _ in one.parameters())) or _SOME_TOKENS.search(name):
        return False
    first, *others = (one for one in inputs if isinstance(one, torch.Tensor))
    if any(one.dim() and one.shape[0] not in (1, first.shape[0]) for one in others):
        return False
    if isinstance(module, nn.Embedding):
        return not _RELATIVE.search(name.rpartition(".")[2])
    if isinstance(module, _CONVS):
        return first.dim() == len(module.kernel_size) + 2
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return not module.training
    kind = type(module)
    experts = kind.__name__.endswith("Experts") and kind.__module__.startswith("transformers.models.")
    known = isinstance(module, nn.Linear | nn.LayerNorm | nn.GroupNorm) or is_conv1d(module)
    return known or kind.__name__.endswith("Norm") or experts


def rows_elsewhere(model: nn.Module) -> str | None:
    """A module that keeps the rows of a batch in another dimension than the first; None: there is none."""
    for name, module in model.named_modules():
        if getattr(module, "batch_first", True) is False:
            return f"{name!r} ({type(module).__name__}, batch_first=False)"
    return None


Path = tuple[str, ...]
"""Attributes from ``self`` on; ``*`` is any item of a list, ``f()`` what a method gives, and ``=`` ends what is not
handed on to a function."""

_ASIDE: Final = re.compile(r"^(__(?!call__)|extra_repr$|_?(init|reset|tie|set|resize|load|save|prune|convert))")
_ABOUT: Final = frozenset({"dtype", "device", "shape", "size", "data_ptr", "requires_grad", "dim", "ndim", "numel"})
_ASKS: Final = frozenset({"isinstance", "hasattr", "len", "type", "id", "is_deepspeed_zero3_enabled", "to", "type_as"})
_GIVES: Final = frozenset({"get_input_embeddings", "get_output_embeddings"})
_KEPT: Final = "="
_TURNED: Final = re.compile(
    r"(transpose|swapaxes|swapdims)\((0, ?1|1, ?0)\)|permute\(\(?1, ?0\b|rearrange|movedim|\.T\b"
)


@dataclass(frozen=True)
class Source:
    """What a class does with what it holds."""

    paths: tuple[tuple[Path, bool], ...]  # what it reads or hands on, and whether it is run by `forward`
    split: tuple[Path, ...]  # what it reads where ``pretraining_tp`` is above 1
    turned: bool  # whether it may put another dimension first
    writes: bool  # whether running it gives it attributes


_known: Final[WeakKeyDictionary[type, Source]] = WeakKeyDictionary()


class Readers:
    """Who reads the weights of whom in one model."""

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[tuple[nn.Module, str | None], dict[nn.Module, bool]] = {}
        self.turned = False
        """Whether some module may keep the rows of a batch in another dimension than the first."""
        for module in model.modules():
            source = source_of(type(module))
            self.turned |= source.turned
            split = source.split if getattr(module, "pretraining_tp", 1) != 1 else ()
            for path, by_forward in (*source.paths, *((one, True) for one in split)):
                for read in _reads(module, path):
                    known = self._found.setdefault(read, {})
                    known[module] = known.get(module, True) and by_forward

    def of(self, module: nn.Module, leaf: str) -> Mapping[nn.Module, bool]:
        """Those that read a tensor of a module, and whether each does so in its ``forward`` alone."""
        return {**self._found.get((module, leaf), {}), **self._found.get((module, None), {})}


def source_of(kind: type) -> Source:
    """What the methods of a class read; of one that was made without a file, nothing is known but its names."""
    if kind not in _known:
        _known[kind] = _source(kind)
    return _known[kind]


def _source(kind: type) -> Source:
    methods: dict[str, _Method] = {}
    for base in reversed(kind.__mro__):
        if base is nn.Module or not issubclass(base, nn.Module) or base.__name__ == "PreTrainedModel":
            continue
        for name, member in vars(base).items():
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function) and not _ASIDE.match(name):
                methods[name if name not in methods else f"{name} of {base.__name__}"] = _method(function)
    run, found = {"forward"}, True
    while found:
        before = len(run)
        run |= {name for name in methods if {name.split(" ")[0]} & {one for by in run for one in _names(methods, by)}}
        found = len(run) > before
    by_forward = {name for name in methods if name.split(" ")[0] in run}
    return Source(
        tuple(dict.fromkeys((path, name in by_forward) for name, one in methods.items() for path in one.paths)),
        tuple(path for one in methods.values() for path in one.split),
        any(one.turned for one in methods.values()),
        any(methods[name].writes for name in by_forward),
    )


def _names(methods: Mapping[str, _Method], name: str) -> set[str]:
    return {called for key, one in methods.items() if key.split(" ")[0] == name for called in one.mentioned}


@dataclass
class _Method:
    paths: list[Path] = field(default_factory=list)
    split: list[Path] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)  # attributes of ``self``
    turned: bool = False
    writes: bool = False


def _method(function: Any) -> _Method:
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):  # made without a file, as in a console
        return _of_names(function)
    if not isinstance(tree, ast.FunctionDef) or not tree.args.args:
        return _of_names(function)
    reader = _Reader(tree.args.args[0].arg)
    reader.visit(tree)
    reader.found.turned = _TURNED.search(text) is not None
    return reader.found


def _of_names(function: Any) -> _Method:
    """Without a source: everything that it names may be read."""
    names = function.__code__.co_names
    paths = [("*", name) for name in names if name in ("weight", "bias")]
    return _Method([*paths, *((one, *path) for one in names for path in paths)], [], set(names), turned=True)


class _Reader(ast.NodeVisitor):
    """Collects what a method reads, in the order of its lines."""

    def __init__(self, this: str) -> None:
        self.found = _Method()
        self._held: dict[str, list[Path]] = {this: [()]}
        self._split = False

    def generic_visit(self, node: ast.AST) -> None:
        for one in getattr(node, "generators", ()):  # before what is made of their variables
            self.visit(one)
        super().generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._hold(target, self._paths(node.value))
            self.visit(target)

    def visit_For(self, node: ast.For) -> None:
        self._iterate(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._iterate(node.target, node.iter)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        before, self._split = self._split, self._split or "pretraining_tp" in ast.unparse(node.test)
        self.visit(node.test)
        for one in node.body:
            self.visit(one)
        self._split = before
        for one in node.orelse:
            self.visit(one)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        self.visit(node.func)
        for one in (*node.args, *(keyword.value for keyword in node.keywords)):
            given = self._paths(one)
            if not given:
                self.visit(one)
            elif name not in _ASKS:
                self._add(given)

    def visit_Compare(self, node: ast.Compare) -> None:
        if not all(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._see(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._see(node)
        self.visit(node.slice)

    def _see(self, node: ast.Attribute | ast.Subscript) -> None:
        paths = self._paths(node)
        if not paths:
            self.generic_visit(node)
        elif isinstance(node.ctx, ast.Load):
            self._add([(*path, _KEPT) for path in paths])
        else:
            self.found.writes |= isinstance(node, ast.Attribute)

    def _add(self, paths: list[Path]) -> None:
        paths = [path for path in paths if path and path != (_KEPT,)]
        self.found.mentioned.update(path[0] for path in paths)
        (self.found.split if self._split else self.found.paths).extend(paths)

    def _hold(self, target: ast.expr, paths: list[Path]) -> None:
        if isinstance(target, ast.Name) and paths:
            self._held.setdefault(target.id, []).extend(paths)

    def _iterate(self, target: ast.expr, items: ast.expr) -> None:
        """What a loop's variables hold; `enumerate`, `zip` and the like are looked through."""
        lists = items.args if isinstance(items, ast.Call) and items.args else [items]
        names = target.elts if isinstance(target, ast.Tuple) and isinstance(items, ast.Call) else [target]
        if isinstance(items, ast.Call) and isinstance(items.func, ast.Name) and items.func.id == "enumerate":
            names = names[1:]  # the number holds nothing
        for number, name in enumerate(names):
            mine = lists[number : number + 1] if len(names) == len(lists) else lists
            for inner in ast.walk(name):
                if isinstance(inner, ast.Name):
                    self._hold(inner, [(*path, "*") for one in mine for path in self._paths(one)])

    def _paths(self, node: ast.expr) -> list[Path]:
        """Where an expression leads to, as far as that begins at ``self``."""
        found: list[Path] = []
        match node:
            case ast.Name():
                found = self._held.get(node.id, [])
            case ast.Attribute():
                found = [(*path, node.attr) for path in self._paths(node.value)]
            case ast.Subscript():
                found = [(*path, "*") for path in self._paths(node.value)]
            case ast.List() | ast.Tuple():
                found = [path for one in node.elts for path in self._paths(one)]
            case ast.IfExp():
                found = [*self._paths(node.body), *self._paths(node.orelse)]
            case ast.Call():
                found = self._given(node)
        return found

    def _given(self, node: ast.Call) -> list[Path]:
        if isinstance(node.func, ast.Attribute) and node.func.attr in _GIVES:
            return [(*path, f"{node.func.attr}()") for path in self._paths(node.func.value)]
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else "*"
            return [(*path, str(name)) for path in self._paths(node.args[0])]
        return []


def _reads(reader: nn.Module, path: Path) -> Iterator[tuple[nn.Module, str | None]]:
    """Tensors of other modules that a path leads to; None: the module itself, whose tensors may all be read."""
    held: list[Any] = [reader]
    for at, part in enumerate(path):
        following: list[Any] = []
        for one in held:
            if isinstance(one, nn.Module) and (part in one._parameters or part in one._buffers):
                if one is not reader and not (at + 1 < len(path) and path[at + 1] in _ABOUT):
                    yield one, part
                continue
            following.extend(_items(one, part))
        held = following
    for one in held:
        if isinstance(one, nn.Module) and one is not reader and (one._parameters or one._buffers):
            yield one, None


def _items(holder: Any, part: str) -> Iterator[Any]:
    if part == "*":
        if isinstance(holder, nn.Module):
            yield from holder._modules.values() or (holder,)
        elif isinstance(holder, list | tuple):
            yield from holder
        elif isinstance(holder, dict):
            yield from holder.values()
    elif isinstance(holder, nn.Module):
        if part.endswith("()"):
            method = getattr(holder, part.removesuffix("()"), None)
            if callable(method):
                yield method()
        elif part in holder._modules:
            yield holder._modules[part]
        elif part in vars(holder) and isinstance(vars(holder)[part], nn.Module | list | tuple | dict):
            yield vars(holder)[part]
