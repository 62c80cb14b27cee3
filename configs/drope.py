"""DroPE: a language model is trained with rotary positions, loses them, and is trained a little longer.

    relpos train --config drope --workdir runs/drope

Gelberg et al. 2025, arXiv:2512.12167. All else is as in configs/lm.py, so that `--config lm` is the same run with its
positions kept. TODO
"""

from ml_collections import ConfigDict

from configs import lm


def get_config() -> ConfigDict:
    """Return the defaults of lm, with a step at which its encoding is dropped."""
    config = lm.get_config()
    config.update({"encoding": "rope", "drop_encoding_at": 2000})
    return config
