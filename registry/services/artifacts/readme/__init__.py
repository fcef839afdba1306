"""README.md of computed artifacts, and the metadata at the beginning of cards."""
