"""Writes the reference of docs/python.md from the docstrings: ``python -m tests.house.python_page``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

import registry
from registry import schemas
from registry.operations.methods.calls import TableCalls
from registry.operations.readable import ReadableArtifact, ReadableFile
from registry.operations.registry import Registry
from tests.root import ROOT

PAGE = ROOT / "docs" / "python.md"
BEGIN = "<!-- reference: written by `make format` from the docstrings -->\n"
END = "<!-- end of reference -->"
_HOLDERS = {"ReadableArtifact": "artifact", "ReadableFile": "file"}
_SECTION = re.compile(r"^(Args|Returns|Raises|Example):$", re.MULTILINE)


def groups() -> Iterator[tuple[str, list[tuple[str, object]]]]:
    """What the methods are for, and the methods, as they stand in the classes that `Registry` is made of."""
    for kind in (*Registry.__bases__, Registry):
        purpose = (inspect.getdoc(kind) or "").partition("\n")[0]
        yield "Copying" if kind is Registry else re.split("[.:]", purpose)[0], _own(kind)
    yield "Where it is, and closing", _own(TableCalls)
    yield "Artifacts that are open", [*_own(ReadableArtifact), *_own(ReadableFile)]


def _own(kind: type) -> list[tuple[str, object]]:
    holder = _HOLDERS.get(kind.__name__, "team")
    return [(f"{holder}.{name}", one) for name, one in vars(kind).items() if _is_public(name, one)]


def _is_public(name: str, one: object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(one) or isinstance(one, property))


def entry(name: str, one: object) -> str:
    """One method: its heading, how it is called, and what its docstring says."""
    lead, sections = _parts(inspect.getdoc(one) or "")
    lines = [f"### {name}", "", *(["```python", _signature(name, one), "```", ""] if callable(one) else []), lead, ""]
    for title in ("Args", "Returns", "Raises"):
        if title in sections:
            lines += [f"{title}:", "", *_items(title, sections[title]), ""]
    if "Example" in sections:
        lines += ["```python", sections["Example"], "```", ""]
    return "\n".join(lines)


def _parts(doc: str) -> tuple[str, dict[str, str]]:
    lead, *rest = _SECTION.split(doc)
    found = {title: inspect.cleandoc(text) for title, text in zip(rest[::2], rest[1::2], strict=True)}
    return _markdown(lead.strip()), found


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _items(title: str, text: str) -> Iterator[str]:
    if title == "Returns":
        yield f"- {_markdown(' '.join(text.split()))}"
        return
    for item in re.split(r"\n(?=\S)", text):
        name, _, about = " ".join(item.split()).partition(": ")
        yield f"- `{name}`: {_markdown(about)}"


def _signature(name: str, call: Callable[..., object]) -> str:
    """The call, with a line for each argument where it is long."""
    signature = inspect.signature(call)
    parts = [part for key, part in signature.parameters.items() if key != "self"]
    taken = [_argument(part) for part in parts]
    keyword = [part.kind is part.KEYWORD_ONLY for part in parts]
    if True in keyword:
        taken.insert(keyword.index(True), "*")
    line = f"{name}({', '.join(taken)}) -> {signature.return_annotation}"
    if len(line) <= 110:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in taken) + f") -> {signature.return_annotation}"


def _argument(part: inspect.Parameter) -> str:
    shown = "..." if inspect.isfunction(part.default) else repr(part.default)  # a function's text holds an address
    return f"{part.name}: {part.annotation}" + ("" if part.default is part.empty else f" = {shown}")


def answers() -> Iterator[str]:
    """A row for each schema that a method returns, or that one of these holds."""
    yield "| answer | fields |"
    yield "|---|---|"
    for name in sorted(schemas.__all__):
        kind = getattr(schemas, name)
        if inspect.isclass(kind) and issubclass(kind, schemas.Schema) and kind is not schemas.Schema:
            yield f"| `{name}` | {', '.join(f'`{field.alias or name}`' for name, field in kind.model_fields.items())} |"


def render() -> str:
    """The reference."""
    parts = [entry("registry.connect", registry.connect)]
    for title, methods in groups():
        parts += [f"## {title}", "", *(entry(name, one) for name, one in methods)]
    parts += ["## Fields of the answers", "", *answers()]
    return "\n".join(parts)


def with_reference(page: str) -> str:
    """The page with the reference as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{render()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
