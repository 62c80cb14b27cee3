"""Learning-rate schedules by name. Each module defines fraction(done, **options).

It maps progress after the warm-up, from 0 to 1, to the remaining distance from the final rate, from 1 to 0.
"""

from relpos.registry import Functions

_SCHEDULES = Functions(__name__, "fraction", "schedule")
names, options, call = _SCHEDULES.names, _SCHEDULES.options, _SCHEDULES.call
