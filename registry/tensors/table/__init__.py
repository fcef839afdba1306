"""The target table: what a runtime module name means in the files of its base model."""
