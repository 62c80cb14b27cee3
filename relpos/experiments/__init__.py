"""Sweeps of runs and their reports: `relpos sweep` and `relpos report`.

`spec` says which runs a sweep has, `trial` what is known of one, `pool` trains them, `results` keeps their figures,
`measures` and `job` say what the figures mean, and `tables`, `leaderboard`, `pictures` and `page` show it.
"""
