"""Learning-rate schedules by name. Each module defines fraction(done, **options).

`fraction` maps progress after the warm-up (0 to 1) to the remaining distance to the final rate (1 to 0).
"""

from relpos.registry import Functions

_SCHEDULES = Functions(__name__, "fraction", "schedule")
names, options, call = _SCHEDULES.names, _SCHEDULES.options, _SCHEDULES.call
