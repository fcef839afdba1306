"""How answers look to a person in Python: in a line, as a table in a notebook, as a data frame."""
