"""Changes of the tree: publishing, tags, annotations, retraction, deletion."""
