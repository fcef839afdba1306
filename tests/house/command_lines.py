"""Command lines that files and pages name, read by the real parser."""

from __future__ import annotations

from registry.cli.program import build_command


def parse(words: list[str]) -> None:
    """Read a command line with the real parser and run nothing."""
    command, name = build_command(), "registry"
    context = command.make_context(name, list(words), resilient_parsing=False)
    while True:
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else list(context.args)
        if not rest or not hasattr(context.command, "resolve_command"):
            return
        name, found, rest = context.command.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(name, rest, parent=context)
