"""From lineage to files: loading, building, describing, fetching and verifying artifacts."""
