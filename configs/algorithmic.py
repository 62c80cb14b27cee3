"""An algorithmic task, trained on short examples and tested on longer ones.

    relpos train --config algorithmic --workdir runs/flip_flop

Measured on one CPU core with one seed: 100 s, 94.3% of the flip_flop examples right at twice the trained length.
`--config.data.source=TASK` selects any task of relpos/data/algorithmic/sources and
`--config.data.sources.TASK.OPTION=VALUE` sets its options; lego, which ends at 26, needs
`--config.eval_lengths=10,20,26`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return overrides of the defaults of algorithmic tasks."""
    return ConfigDict(
        {
            "task": "algorithmic",
            "encoding": "alibi",
            "steps": 2000,
            "batch_size": 64,
            "sequence_length": 20,
            "model": {"features": 64},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 0.001,
                "warmup_steps": 100,
                "schedule": "cosine",
            },
            "eval_every": 1000,
        }
    )
