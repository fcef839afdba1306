"""The tensor core: pure functions over files, factors and base weights. Knows no database and no network."""
