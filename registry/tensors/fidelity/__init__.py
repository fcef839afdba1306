"""What rounding to the output dtype leaves of the changes of a path: measured while weights are made, or estimated."""
