"""Buttons of pages, pressed without a browser."""

from __future__ import annotations

import re
from html import unescape

import httpx

from tests.kit.pages import Visitor
from tests.web.parsed import Form, forms_of


def form_with(page: httpx.Response, label: str, **fields: str) -> Form:
    """The form of a page with this button and these values in its fields."""
    forms = forms_of(page.text)
    found = [one for one in forms if label in one.buttons and fields.items() <= one.fields.items()]
    assert len(found) == 1, (label, fields, forms)
    return found[0]


def press(visitor: Visitor, form: Form, label: str, **typed: str) -> httpx.Response:
    """Write into the fields of a form, and press a button."""
    assert typed.keys() <= set(form.written)
    return visitor.send(form.action, form.fields | typed | form.buttons[label], token=None)


def said(page: httpx.Response) -> str:
    """The text of a page, without its elements."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.text.partition("<main")[2])).split())
