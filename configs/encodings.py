"""Every scheme's options with the paper's values; `--config.encodings.NAME.OPTION=VALUE` overrides one."""

ENCODINGS = {
    "alibi": {"learned": False, "literal_slopes": False},
    "cable": {"gate": "relu", "weights": True, "kernel": "linear"},  # or softplus; or log
    "cope": {"positions": 64},
    "dape": {"bias": "kerple", "hidden": 32},
    "deberta": {
        "span": 512,
        "log_buckets": False,
        "max_distance": 512,
        "share": False,
        "keys_by_query": False,
    },
    "fire": {"hidden": 32, "initial_c": 0.1, "initial_threshold": 512.0, "epsilon": 1e-6},
    "fox": {"initial_offset": 0.0},
    "grape_a": {"queries": True, "keys": True},
    "grape_ap": {"width": 8},
    "grape_m": {
        "generator": "coordinates",  # or plane
        "base": 10000.0,
        "per_head": False,
        "slowness": 16.0,
    },
    "inkling": {"rank": 16, "extent": 1024, "log_floor": 0, "log_alpha": 0.1},
    "kerple": {"kernel": "log"},
    "learned": {"max_length": 4096, "stddev": 0.02},
    "none": {},
    "path": {"rank": 32},
    "pope": {"base": 10000.0},
    "repo": {"width": 0, "base": 500000.0, "layout": "half"},
    "rope": {
        "base": 10000.0,
        "layout": "half",
        "fraction": 1.0,
        "scaling": "none",  # or longrope
        "trained_length": 4096,
        "target_length": 0,
        "short_factors": (),
        "long_factors": (),
    },
    "rope_2d": {"mixed": False, "width": 14, "base": 0.0, "layout": "interleaved"},
    "selective_rope": {"rank": 4},
    "shaw": {"k": 16, "keys": True, "values": True},
    "sink": {"initial": 0.0},
    "sinusoidal": {"base": 10000.0},
    "t5": {"num_buckets": 32, "max_distance": 128, "bidirectional": False, "per_layer": False},
    "transformer_xl": {"base": 10000.0, "clamp": 0, "untied": False},
    "tupe": {
        "max_length": 512,
        "untied": False,
        "num_buckets": 32,
        "max_distance": 128,
        "bidirectional": True,
    },
    "wall": {"initial_offset": 8.0},
}
