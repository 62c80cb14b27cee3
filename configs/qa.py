"""Stories in the manner of bAbI, asked about facts farther back than those trained on.

    relpos train --config qa --workdir runs/qa

Trains an encoder that points at the answer in the story. docs/tasks.md has what t5 and sinusoidal reach.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return what differs from the defaults of question answering."""
    return ConfigDict(
        {
            "task": "question_answering",
            "encoding": "t5",
            "steps": 600,
            "sequence_length": 128,  # a question and its context: 126 tokens of the default stories at most
            "model": {"num_layers": 3},
            "eval_every": 300,
            "checkpoint_every": 300,
        }
    )
