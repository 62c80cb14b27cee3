"""library_text: the text in every Python installation."""
