"""Algorithmic tasks: each class with a name in these files is a task."""
