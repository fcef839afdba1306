"""How artifacts are built, one file a kind; `table` puts them together."""
