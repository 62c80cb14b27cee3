"""library_text: the text that every Python installation carries."""
