"""The config of translation."""

import dataclasses
from typing import Annotated, Literal

from relpos.data import pairs as pairs_data
from relpos.nn import Beams
from relpos.sections import Fraction, Options, Positive, at_least, name_in, options_of
from relpos.training.run_config import TransformerRunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The pairs.

    Attributes:
      source: one of `relpos/data/pairs/sources`.
      sources: name -> options.
      tokenizer: sentencepiece, learned from train and stored in the run directory; words (for scan); or bytes.
      vocab_size: vocabulary size of sentencepiece.
      joint_vocabulary: whether source and target share a vocabulary and an embedding table.
    """

    source: Annotated[str, name_in(pairs_data)] = "cldr"
    sources: Options = options_of(pairs_data)
    tokenizer: Literal["sentencepiece", "words", "bytes"] = "sentencepiece"
    vocab_size: Positive = 1000
    joint_vocabulary: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search for translations.

    Attributes:
      beams: number of beams; 1 is greedy search.
      length_penalty: see `relpos.nn.Beams`.
      max_length: maximum tokens of a translation; None: sequence_length - 1.
      most_pairs: maximum pairs to translate per test split, spread over the split; None: all.
      oracle_length: whether to score exact match at the true length as well.
    """

    beams: Positive = Beams.size
    length_penalty: Annotated[float, at_least(0)] = Beams.length_penalty
    max_length: Positive | None = None
    most_pairs: Positive | None = None
    oracle_length: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TransformerRunConfig):
    """The config of translation.

    Attributes:
      sequence_length: maximum tokens of a sentence, including the end symbol.
      batch_size: pairs per batch.
      decoder_encoding: encoding of the decoder's self-attention; "" uses the encoder's.
      cross_encoding: encoding of cross-attention.
      data: the pairs.
      label_smoothing: target probability spread uniformly over the vocabulary.
      eval_pairs: validation pairs to translate during training; 0 computes only the loss.
      search: the search for translations.
    """

    sequence_length: Annotated[int, at_least(2)] = 128
    decoder_encoding: str = ""
    cross_encoding: str = "none"
    data: DataConfig = DataConfig()
    label_smoothing: Fraction = 0.0
    eval_pairs: Annotated[int, at_least(0)] = 100
    search: SearchConfig = SearchConfig()
