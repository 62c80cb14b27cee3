"""Questions whose answers are spans of a text: `load("squad", train="train-v2.0.json")`."""

from relpos.data.questions.question import Question as Question
from relpos.data.sources import Sources

_SOURCES: Sources[Question] = Sources("relpos.data.questions.sources", "questions")
names, options = _SOURCES.names, _SOURCES.options
load, load_chosen = _SOURCES.load, _SOURCES.load_chosen
