"""Pairs of sentences for translation: `load("cldr", languages=("en", "de"))`."""

from relpos.data.pairs.corpus import Pair as Pair
from relpos.data.sources import Sources

_SOURCES: Sources[Pair] = Sources("relpos.data.pairs.sources", "pairs")
names, options = _SOURCES.names, _SOURCES.options
load, load_chosen = _SOURCES.load, _SOURCES.load_chosen
