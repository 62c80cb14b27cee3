"""The toy task's config, as small as a config can be."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "task": "tests.training.toy",
            "seed": 0,
            "steps": 20,
            "batch_size": 4,
            "sequence_length": 8,
            "log_every": 4,
            "eval_every": 10,
            "checkpoint_every": 5,
            "optimizer": {
                "name": "adamw",
                "learning_rate": 0.05,
                "warmup_steps": 2,
                "schedule": "cosine",
                "final_fraction": 0.1,
                "options": {"adamw": {"weight_decay": 0.01, "b2": 0.99}},
            },
        }
    )
