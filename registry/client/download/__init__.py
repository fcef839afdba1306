"""Downloads: ranges, resuming, checked blobs."""
