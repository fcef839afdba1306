"""The command ``registry``: thin commands over the registry's protocol, and the rendering of answers."""
