"""An algorithmic task, trained on short examples and tested on longer ones.

    relpos train --config algorithmic --workdir runs/flip_flop

`--config.data.source=TASK` takes any task of relpos/data/algorithmic, `--config.data.sources.TASK.OPTION=VALUE` its
options; lego has no length over 26: `--config.eval_lengths=10,20,26`.
"""

from ml_collections import ConfigDict

from relpos import encodings, places
from relpos.data import algorithmic
from relpos.registry import all_options


def get_config() -> ConfigDict:
    """Return the defaults."""
    return ConfigDict(
        {
            "task": "algorithmic",
            "seed": 0,
            "steps": 2000,
            "batch_size": 64,
            "sequence_length": 20,  # the longest that is trained on, as the task measures it
            "data": {
                "source": "flip_flop",
                "shortest": 0,  # that is trained on; 0: the shortest there is
                "one_length": False,  # whether all examples of a batch are of one length
                # placeholder: an encoder fills in the answer; causal: a decoder goes on with it;
                # "": as the task's paper has it.
                "presentation": "",
                "sources": all_options(algorithmic),
            },
            # The test is on these; what is over sequence_length is shown apart.
            "eval_lengths": (10, 20, 30, 40, 60, 80),
            "eval_examples": 64,  # of each length, while training
            "test_examples": 512,  # of each length, at the end
            # One scheme, or several that the layers take in turn: "rope,none".
            "encoding": "alibi",
            "encodings": all_options(encodings),
            "positions": "",  # each token's place; or one of relpos/places: randomized, shape, ...
            "places": all_options(places),
            "model": {
                "num_layers": 2,
                "features": 64,
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
            "optimizer": {
                "name": "adamw",
                "learning_rate": 0.001,
                "warmup_steps": 100,
                "schedule": "cosine",
                "final_fraction": 0.0,
                "weight_decay": 0.0,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
            },
            "log_every": 100,
            "eval_every": 1000,
            "checkpoint_every": 500,
        }
    )
