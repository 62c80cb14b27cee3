"""The kinds of work: one file for each."""
