"""The builders of artifacts, a module a kind; `table` lists them."""
