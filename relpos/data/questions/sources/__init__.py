"""Sources of questions: each file has load(**options), which returns a corpus."""
