"""What a page may be made of, whatever was written into the registry."""

from __future__ import annotations

import re
from typing import Final

from tests.web.parsed import FORM, Parsed

_OURS: Final = re.compile(r"/[^/\\]|/$|#|\?|data:image/")
_LOADED: Final = ("script", "img", "link", "form", "button", "input", "image", "use", "audio", "video", "source")
_NEVER: Final = ("style", "iframe", "object", "embed", "base", "frame", "applet", "math", "foreignobject", "animate")


def assert_harmless(text: str) -> Parsed:
    """Nothing in a page runs, loads from elsewhere or sends elsewhere, but our one module; returns its elements."""
    page = Parsed(text)
    for tag, attributes in page.elements:
        assert tag not in _NEVER, tag
        assert [name for name in attributes if name == "style" or name.startswith("on")] == [], (tag, attributes)
        assert tag != "meta" or "http-equiv" not in attributes, attributes
    assert [one for one in page.addresses(*_LOADED) if not _OURS.match(one)] == []
    assert [one for one in page.addresses("a") if not _OURS.match(one) and not re.match("(https?|mailto):", one)] == []
    assert [script.get("type") for script in page.named("script")] == ["module"]
    for form in FORM.findall(text):
        assert ('method="post"' in form) == ('name="form_token"' in form), form[:200]
    return page
