"""Translation by an encoder-decoder, tested on longer lists than in training.

    relpos train --config translation --workdir runs/translation

Trains on English and German lists of one to four dates, prices, quantities and names from Babel, and tests on such
lists and on lists of five to eight. Measured on one CPU core with one seed: 220 s, BLEU 90.6 and 45.4 with beam search.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return overrides of the defaults of translation."""
    return ConfigDict(
        {
            "task": "translation",
            "encoding": "shaw",
            "steps": 700,
            "optimizer": {"warmup_steps": 100},
            "eval_every": 350,
            "checkpoint_every": 350,
        }
    )
