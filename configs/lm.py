"""A byte-level language model on text that every Python installation carries.

    relpos train --config lm --workdir runs/lm

Trains a decoder on the standard library's own source and documentation. Measured on 2 CPU cores,
one seed, by README's line with its installation: 330 s, 1.849 bits per byte of the test text (5-gram
model: 2.092).
"""

from ml_collections import ConfigDict

from relpos import encodings, places
from relpos.data import text
from relpos.registry import all_options


def get_config() -> ConfigDict:
    """Return the defaults."""
    return ConfigDict(
        {
            "task": "language_modelling",
            # causal; or masked: find 15% of the tokens from those on both sides. That reports their perplexity, and
            # predict fills in every [MASK] of a line.
            "objective": "causal",
            "seed": 0,
            "steps": 2800,
            "batch_size": 8,
            "sequence_length": 256,
            # One scheme, or several that the layers take in turn: "rope,none".
            "encoding": "rope",
            "encodings": all_options(encodings),
            # DroPE: from this step on the layers have no encoding, see configs/drope.py; 0: never.
            "drop_encoding_at": 0,
            "positions": "",  # each token's place; or one of relpos/places: randomized, shape, ...
            "places": all_options(places),
            "model": {
                "num_layers": 2,
                "features": 128,
                "num_heads": 2,
                "num_kv_heads": 0,  # 0: as many as query heads
                "head_dim": 0,  # 0: features / num_heads
                "mlp_features": 0,  # 0: 4 * features
                "window": None,  # tokens seen on each side; 64:16 past:future; none,128*2 by layers in turn; None: all
                "scale": None,  # of dot products; None: 1 / sqrt(head size) for most schemes; likewise in turn
                "softcap": None,  # of logits; None: no cap; likewise in turn
                "dropout_rate": 0.0,
                "norm": "pre",  # or post
                "dtype": "float32",
            },
            "data": {
                "source": "library_text",  # or files of your own; or tfds, a tensorflow-datasets text set
                "sources": all_options(text),
                "tokenizer": "bytes",  # or sentencepiece, trained on the corpus and kept in the run
                "vocab_size": 4096,  # of sentencepiece
            },
            "optimizer": {
                "name": "muon",
                "learning_rate": 0.006,
                "warmup_steps": 40,
                "schedule": "wsd",
                "final_fraction": 0.0,
                "weight_decay": 0.0,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
            },
            "log_every": 100,
            "eval_every": 1400,
            "eval_bytes": 50000,  # of the validation text while training; 0: all
            "checkpoint_every": 200,
            # At the end the test text is scored at these multiples of sequence_length.
            "eval_multiples": (1, 2, 4, 8),
            "sample": {  # what a causal model writes at the end
                "prompts": ("def main(", '"""Return the ', "The "),
                "max_tokens": 160,
                "temperature": 0.7,
                "top_k": 0,
                "top_p": 0.95,
            },
        }
    )
