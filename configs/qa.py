"""Stories in the manner of bAbI, asked about facts farther back than those trained on.

    relpos train --config qa --workdir runs/qa

Trains an encoder that points at the answer in the story. docs/tasks.md has what t5 and sinusoidal reach.
"""

from ml_collections import ConfigDict

from relpos import encodings, places
from relpos.data import questions
from relpos.registry import all_options


def get_config() -> ConfigDict:
    """Return the defaults."""
    return ConfigDict(
        {
            "task": "question_answering",
            "seed": 0,
            "steps": 600,
            "batch_size": 32,
            # A question and a window of its context: 126 tokens of the default stories at most.
            "sequence_length": 128,
            # One scheme, or several that the layers take in turn: "rope,none".
            "encoding": "t5",
            "encodings": all_options(encodings),
            "positions": "",  # each token's place; or one of relpos/places: randomized, shape, ...
            "places": all_options(places),
            "model": {
                "num_layers": 3,
                "features": 128,
                "num_heads": 4,
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
                # Or files of your own in the form of squad or babi; or tfds, a tensorflow-datasets set.
                "source": "stories",
                "sources": all_options(questions),
                "tokenizer": "words",  # or bytes; or sentencepiece; learned from train, kept in the run
                "vocab_size": 8192,  # of words (at most) and sentencepiece
            },
            "overlap": 32,  # tokens that a window of a long context shares with the next
            "longest_answer": 16,  # in tokens
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
            "eval_every": 300,
            "eval_questions": 500,  # of validation while training; 0: all
            "checkpoint_every": 300,
            # At the end the test questions are read in windows of these multiples of sequence_length.
            "eval_multiples": (2,),
        }
    )
