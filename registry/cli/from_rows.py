"""Commands that are a row of the table of operations: they ask, do, and show.

The options are the fields of the row's request, with the help given in it; what is shown is described with the
answer, as a list or by a function.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import reduce
from inspect import Parameter, Signature
from operator import or_
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import typer

from registry.cli import completion
from registry.cli.options import Json, Url
from registry.schemas.form import Param, Schema

if TYPE_CHECKING:
    from registry.cli.session import Session

_COMPLETED: Final[dict[str, Callable[..., list[str]]]] = {
    "path": completion.paths,
    "ref": completion.references,
    "base": completion.bases,
}
"""What a shell completes, by the names of fields."""
_WORDS: Final = {**_COMPLETED, "tag": completion.tags}
"""The same of words of the command line."""


@dataclass(frozen=True)
class FromRow:
    """A command that is a method of the registry, and a row of the table of operations.

    Args:
        row: the row, in `registry.operations.table`.
        method: of `registry.operations.registry.Registry`; it takes the fields of the row's request by name.
        about: the help.
        words: fields that are words of the command line and no options, in order; those that are required always are.
        names: what the method calls a field, if that is another name.
        parts: the function that describes the answer, by its place in `registry`; empty: a list, as its row says.
        then: the function that prints more, of the context, the answer, and what was given.
        limit: of a list: how many are listed by default, and the help of ``--limit``; None: no such option.
        none: what is printed for an empty list; ``{url}`` is the registry.
        progress: whether the method shows how far it is.
    """

    row: str
    method: str
    about: str
    words: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    parts: str = ""
    then: str = ""
    limit: tuple[int | None, str] | None = None
    none: str = ""
    progress: bool = False

    def command(self) -> Callable[..., None]:
        """The function that Typer makes the command of."""

        def run(url: str | None, as_json: bool, **given: Any) -> None:
            from registry.cli.session import session

            with session(url, as_json) as context:
                self._answer(context, {name: _joined(value) for name, value in given.items()})

        run.__doc__ = self.about
        run.__signature__ = Signature(list(self._parameters()))  # type: ignore[attr-defined]
        return run

    def _answer(self, run: Session, given: dict[str, Any]) -> None:
        if self.progress:
            given["progress"] = run.progress
        answer = getattr(run.registry, self.method)(**given)
        run.answer(answer, self._described)
        if self.none and not answer:
            run.say(self.none.format(url=run.registry.url))
        if self.then:
            found(self.then)(run, answer, given)

    def _described(self, answer: Any) -> Any:
        if self.parts:
            return found(self.parts)(answer)
        from registry.operations import table

        return [getattr(table, self.row).described.block(answer)]

    def _parameters(self) -> Iterator[Parameter]:
        from registry.operations import table

        request: type[Schema] = getattr(table, self.row).request
        hints, fields = get_type_hints(request, include_extras=True), request.model_fields
        first = [*self.words, *(name for name in fields if fields[name].is_required() and name not in self.words)]
        for name in (*first, *(name for name in fields if name not in first)):
            info, called = fields[name], self.names.get(name, name)
            given = next((one for one in info.metadata if isinstance(one, Param)), Param())
            default = Parameter.empty if info.is_required() else info.default
            yield _parameter(called, _option(name, called, hints[name], given, word=name in first), default)
        if self.limit is not None:
            most = Param(ge=1, metavar="N", help=self.limit[1])
            yield _parameter("limit", _option("limit", "limit", int | None, most, word=False), self.limit[0])
        yield _parameter("url", Url, None)
        yield _parameter("as_json", Json, False)


def _parameter(name: str, annotation: object, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _option(name: str, called: str, hint: Any, given: Param, *, word: bool) -> Any:
    """The type of a field with its settings for Typer."""
    kind, optional = _type_of(hint)
    about: dict[str, Any] = {
        "help": given.help or given.description,
        "autocompletion": (_WORDS if word else _COMPLETED).get(name) if kind is str else None,
    }
    if given.metavar or kind in {str, int, float}:
        about["metavar"] = given.metavar or ("N" if kind is int else called.upper())
    if kind is int and given.ge is not None:
        about["min"] = int(given.ge)
    if given.repeated:
        kind = list[str]
    told = typer.Argument(**about) if word else typer.Option(given.option or f"--{called.replace('_', '-')}", **about)
    return Annotated[kind | None if optional else kind, told]


def _type_of(hint: Any) -> tuple[Any, bool]:
    """The type of an option's value, and whether it may be None: words are a choice, and all else texts, as times."""
    hint = _bare(hint)
    parts = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    kind = _bare(next(part for part in parts if part is not NoneType))
    return kind if kind in {int, float, bool} or get_origin(kind) is Literal else str, NoneType in parts


def _bare(hint: Any) -> Any:
    return _bare(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def with_choices(function: Callable[..., None]) -> Callable[..., None]:
    """A function whose words (``Literal``) are choices: all versions of Typer know enums, and it is given texts."""
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    told = {name: one.annotation for name, one in signature.parameters.items()}
    given = {name: hints[name] if isinstance(hint, str) else hint for name, hint in told.items()}
    choices = {name: _choice(hint) for name, hint in given.items()}
    if choices == given:
        return function

    def run(**given: Any) -> None:
        function(**{name: value.value if isinstance(value, Enum) else value for name, value in given.items()})

    parameters = [one.replace(annotation=choices[name]) for name, one in signature.parameters.items()]
    run.__doc__, run.__annotations__ = function.__doc__, choices
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def _choice(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        return Annotated[_choice(get_args(hint)[0]), *get_args(hint)[1:]]
    if get_origin(hint) in {Union, UnionType}:
        return reduce(or_, map(_choice, get_args(hint)))
    choice: Any = StrEnum
    return choice("Choice", {word.upper(): word for word in get_args(hint)}) if get_origin(hint) is Literal else hint


def _joined(value: Any) -> Any:
    """What the method is given: what may be repeated as one text."""
    return (",".join(value) or None) if isinstance(value, list) else value


def found(place: str) -> Callable[..., Any]:
    """The function at a place beside this module, by the name that this package goes by: `registry` may be another."""
    module, _, name = place.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(f".{module}", __package__), name)
    return function
