"""Sources of text: each file has load(**options), which returns a corpus."""
