"""Publishing: checks, the parent, the manifest, and the transaction that makes a revision visible."""
