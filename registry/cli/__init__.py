"""The command ``registry``: thin commands over the registry's protocol, and how their answers look."""
