"""``python -m registry``, and by its other name ``python -m adapter_registry``: the command."""

from .cli.main import main  # relative, so that it is the same package by either name

if __name__ == "__main__":
    main()
