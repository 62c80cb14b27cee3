"""Learning-rate schedules by name: each file has fraction(done, **options).

It maps the part of the steps after the warm-up that is done, 0 to 1, to how far the rate is from its final value, 1 to
0.
"""

from relpos.registry import Functions

_SCHEDULES = Functions(__name__, "fraction", "schedule")
names, options, call = _SCHEDULES.names, _SCHEDULES.options, _SCHEDULES.call
