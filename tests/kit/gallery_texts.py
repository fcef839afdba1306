"""Cards of the gallery, and texts that try to run in a reader's browser."""

from __future__ import annotations

from typing import Final

CARDS: Final = {
    "french": """\
---
language: fr
license: apache-2.0
---
# Support, in French

Answers tickets of customers in France and Belgium. Trained on `support`, so it knows our products already.

## How good it is

| set | acc | loss |
|---|---:|---:|
| held-out tickets | 0.806 | 1.07 |
| letters | 0.71 | 1.44 |

It is weak at **letters**: use [`support/french/formal`](https://example.com/formal) there.

## How to prompt

```python
messages = [{"role": "system", "content": "Vous répondez au service client."}]
```

1. Give the product's name.
2. Give the customer's language.

![confusion matrix](https://images.example.com/confusion.png)

> Never answers questions about law: those go to people.

<details><summary>Raw HTML</summary><p onclick="hacked()">Kept as text or taken out.</p></details>
""",
    "code": "# Code\n\nFill in the middle, on our repositories.\n\n```\n<|fim_prefix|>def f(<|fim_suffix|>\n```\n",
}

RUNS: Final = "globalThis.hacked=1"
"""What every attack tries to run; a page where it ran has the variable."""

ATTACKS: Final = (
    f"<script>{RUNS}</script>",
    f'"><img/src="x"/onerror="{RUNS}">',
    f"'><svg/onload={RUNS}>",
    f"</title></textarea></style></script><script>{RUNS}</script>",
    f"javascript:{RUNS}",
    f"{{{{ 7*7 }}}}${{{RUNS}}}<%= 7*7 %>",
)
"""Texts for every field that takes text; the first four also fit where no spaces are allowed."""

LINKS: Final = (
    f"javascript:{RUNS}//https://wandb.ai/run",
    f"data:text/html,<script>{RUNS}</script>",
    f'https://example.com/"onmouseover="{RUNS}',
    f" javascript:{RUNS}",
)
"""Texts for fields that are shown as links where they are addresses."""

HOSTILE_CARD: Final = "\n\n".join(
    (
        "# <script>globalThis.hacked=1</script>",
        *ATTACKS,
        f"[click](javascript:{RUNS})",
        f"[click](  JaVaScRiPt:{RUNS})",
        f"[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg== '{RUNS}')",
        f'![x](https://evil.example/x.png" onerror="{RUNS})',
        f'<a href="javascript:{RUNS}">click</a> <a href="https://evil.example" onclick="{RUNS}" style="top:0">x</a>',
        f'<iframe src="https://evil.example/"></iframe><object data="javascript:{RUNS}"></object>',
        '<form action="/sign-out" method="post"><button>x</button></form><base href="https://evil.example/">',
        '<style>body{display:none}</style><link rel="stylesheet" href="https://evil.example/x.css">',
        '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
        f'<svg><script>{RUNS}</script><a xlink:href="javascript:{RUNS}"><text>x</text></a></svg>',
        f'<math><mtext></mtext><mglyph><style><img src=x onerror="{RUNS}"></style></mglyph></math>',
        '<img src="https://evil.example/pixel.png"><img srcset="https://evil.example/2x.png 2x">',
        '<p id="main" class="danger" name="csrf">clobbered</p><input name="token" value="x">',
        f"```html\n<script>{RUNS}</script>\n```",
        f"`<img src=x onerror={RUNS}>`",
        f"| <b onmouseover={RUNS}>a</b> | b |\n|---|---|\n| <script>{RUNS}</script> | x |",
    )
)
"""A card of which nothing may run, load, submit or lead astray."""
