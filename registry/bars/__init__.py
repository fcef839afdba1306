"""Progress of long work, shown to people: on a terminal, in a notebook, or as lines now and then."""
