"""The tasks, one module or package each."""
