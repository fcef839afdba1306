"""Code that clients and registries in process share. Needs neither torch nor a database."""
