"""Sweeps of runs and their reports: `relpos sweep` and `relpos report`.

`spec` defines the runs of a sweep, `trial` is one run, `pool` trains them, `results` stores their figures, `measures`
and `job` interpret the figures, and `tables`, `leaderboard`, `pictures` and `page` present them.
"""
