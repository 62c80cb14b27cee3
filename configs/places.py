"""What `--config.positions=NAME` takes, with the papers' options; `--config.places.NAME.OPTION=VALUE` overrides one."""

PLACES = {
    "abacus": {"max_offset": 99},
    "cape": {"max_shift": 5.0, "max_jitter": 0.5, "max_scale": 1.03},
    "coupling": {"max_position": 132},
    "randomized": {"max_length": 2048},
    "shape": {"max_shift": 500},
}
