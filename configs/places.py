"""What `--config.positions=NAME` takes, with the papers' options; `--config.places.NAME.OPTION=VALUE` overrides one."""

PLACES = {
    "abacus": {"max_offset": 99},
    "randomized": {"max_length": 2048},
}
