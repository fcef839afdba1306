"""The web pages: the tree, its adapters and what keeps it running, as HTML that needs no script."""
