"""What a page is made of, for tests that need no browser."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

SVG: Final = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
"""A drawing within a page."""
FORM: Final = re.compile(r"<form\b[^>]*>.*?</form>", re.DOTALL)


class Parsed(HTMLParser):
    """The elements of a page, in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def addresses(self, *tags: str) -> list[str]:
        """Where links and forms lead, and what is loaded."""
        found = (
            attributes.get(name)
            for tag, attributes in self.elements
            if not tags or tag in tags
            for name in ("href", "src", "action", "formaction", "xlink:href")
        )
        return [one for one in found if one is not None]


_SAMPLES: Final = {"role": "reader", "days": "1", "metric": "1", "scopes": ""}


@dataclass
class Form:
    """A form, with what it would send as it stands."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)  # fields that people write into, or choose in
    buttons: dict[str, dict[str, str]] = field(default_factory=dict)  # what each adds, by its text

    @property
    def posts(self) -> bool:
        return self.method == "post"

    def sent(self, **given: str) -> list[dict[str, str]]:
        """What each button would send, without the token, with something in what has to be filled in."""
        filled = {
            name: value or (name in self.written and _SAMPLES.get(name, "sample")) or ""
            for name, value in self.fields.items()
        }
        del filled["form_token"]
        return [{**filled, **more, **given} for more in self.buttons.values() or ({},)]


class _Forms(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Form] = []
        self._open: Form | None = None
        self._area: str | None = None
        self._select: str | None = None
        self._option = False  # what follows is the value of the option
        self._button: dict[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._open = Form(given.get("action") or "", (given.get("method") or "get").lower())
            self.found.append(self._open)
        name, form = given.get("name"), self._open
        if tag == "option" and form is not None and self._select is not None:
            value = given.get("value")
            if "selected" in given or not form.fields[self._select]:
                form.fields[self._select] = value or ""
                self._option = value is None
        if tag == "button":
            self._button = {} if name is None else {name: given.get("value") or ""}
        if form is None or name is None or tag == "button":
            return
        if tag in ("input", "textarea", "select"):
            form.fields[name] = given.get("value") or ""
            if given.get("type", "text") not in ("hidden", "checkbox", "radio"):
                form.written.append(name)
            elif given.get("type") in ("checkbox", "radio") and "checked" not in given:
                del form.fields[name]
            self._area = name if tag == "textarea" else None
            self._select = name if tag == "select" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None and self._area is not None:
            self._open.fields[self._area] += data
        if self._open is not None and self._button is not None:
            self._open.buttons[data.strip()] = self._button
        if self._open is not None and self._option and self._select is not None:
            self._open.fields[self._select] = data
            self._option = False

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            if self._open is not None and self._area is not None:  # browsers leave out a first line that is empty
                self._open.fields[self._area] = self._open.fields[self._area].removeprefix("\n")
            self._area = None
        elif tag == "button":
            self._button = None
        elif tag == "form":
            self._open = None


def forms_of(text: str) -> list[Form]:
    """The forms of a page."""
    return _Forms(text).found
