"""Storage of bytes under keys: simple object drivers, and above them the blob store, which hashes and verifies."""
