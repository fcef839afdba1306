"""What both ends of a transfer run: the client, and a registry in process. Needs neither torch nor a database."""
