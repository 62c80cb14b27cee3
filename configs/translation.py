"""Translation by an encoder-decoder, of lists that are longer than those it was trained on.

    relpos train --config translation --workdir runs/translation

Trains on English and German lists of one to four dates, prices, quantities and names, which come with
Babel, and tests on such lists and on lists of five to eight.
"""

from ml_collections import ConfigDict

from relpos import encodings
from relpos.data import pairs
from relpos.registry import all_options


def get_config() -> ConfigDict:
    """Return the defaults."""
    return ConfigDict(
        {
            "task": "translation",
            "seed": 0,
            "steps": 700,
            "batch_size": 32,  # pairs
            "sequence_length": 128,  # the most tokens of a sentence, its end counted
            # Self-attention of the encoder, and of the decoder if that is not said apart.
            "encoding": "shaw",
            "decoder_encoding": "",
            "cross_encoding": "none",
            "encodings": all_options(encodings),
            "model": {
                "num_layers": 2,  # of encoder and decoder each
                "features": 128,
                "num_heads": 4,
                "num_kv_heads": 0,  # 0: as many as query heads
                "head_dim": 0,  # 0: features / num_heads
                "mlp_features": 0,  # 0: 4 * features
                "window": None,  # tokens seen on each side; 64:16 past:future; none,128*2 by layers in turn; None: all
                "scale": None,  # of dot products; None: 1 / sqrt(head size) for most schemes; likewise in turn
                "softcap": None,  # of logits; None: no cap; likewise in turn
                "dropout_rate": 0.0,  # text of your own wants more: docs/tasks.md
                "norm": "pre",  # or post
                "dtype": "float32",
            },
            "data": {
                "source": "cldr",  # or scan; or files of your own; or tfds, a tensorflow-datasets set
                "sources": all_options(pairs),
                "tokenizer": "sentencepiece",  # or words (for scan), or bytes
                "vocab_size": 1000,  # of sentencepiece
                "joint_vocabulary": True,  # one vocabulary and one table of embeddings for both sides
            },
            "label_smoothing": 0.0,
            "optimizer": {
                "name": "muon",
                "learning_rate": 0.006,
                "warmup_steps": 100,
                "schedule": "wsd",
                "final_fraction": 0.0,
                "weight_decay": 0.0,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
            },
            "log_every": 100,
            "eval_every": 350,
            "eval_pairs": 100,  # of the validation pairs, translated while training; 0: loss alone
            "checkpoint_every": 350,
            "search": {
                "beams": 4,
                "length_penalty": 0.6,
                "max_length": 0,  # the most tokens of a translation; 0: those of sequence_length
                "most_pairs": 0,  # of a test split are translated, drawn from all over it; 0: all
                "oracle_length": False,  # score exact match at the true length as well
            },
        }
    )
