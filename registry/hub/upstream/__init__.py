"""Another Hub that the views ask, where they are told to: reads of repos that are not this registry's."""
