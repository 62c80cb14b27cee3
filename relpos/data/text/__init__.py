"""Text of documents for language models: `load("files", path="books/*.txt")`."""

from relpos.data.sources import Sources

_SOURCES: Sources[bytes] = Sources("relpos.data.text.sources", "text")
names, options = _SOURCES.names, _SOURCES.options
load, load_chosen = _SOURCES.load, _SOURCES.load_chosen
