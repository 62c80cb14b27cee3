"""DroPE: train a language model with rotary positions, remove them, and train it briefly without.

    relpos train --config drope --workdir runs/drope

Gelberg et al. 2025, arXiv:2512.12167, at a small scale. `--config.drop_encoding_at=none` keeps the positions. Measured
on one CPU core with one seed: 320 s. Bits per byte on the validation text are 1.819 at step 1,200, 4.577 just after the
switch, 2.105 at step 1,800 and 1.887 at the end (positions kept: 1.653), and 2.112 on the test text (kept: 1.912).
"""

from ml_collections import ConfigDict

from configs import lm


def get_config() -> ConfigDict:
    """Return the config of lm with more layers, shorter sequences and a step at which to drop the encoding."""
    config = lm.get_config()
    config.update(
        {
            "encoding": "rope",
            "drop_encoding_at": 1200,
            "steps": 2400,
            "batch_size": 32,
            "sequence_length": 64,
            "eval_every": 600,
            "model": {"num_layers": 6, "features": 64, "num_heads": 4},
        }
    )
    return config
