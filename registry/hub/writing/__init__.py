"""The routes of a view that take pushes."""
