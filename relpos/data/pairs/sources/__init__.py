"""Sources of pairs: each file has load(**options), which returns a corpus."""
