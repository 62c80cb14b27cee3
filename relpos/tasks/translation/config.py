"""The config of translation."""

import dataclasses
from typing import Annotated, Literal

from relpos.data import pairs as pairs_data
from relpos.sections import Fraction, Options, Positive, at_least, name_in, options_of
from relpos.training.run_config import TransformerRunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The pairs.

    Attributes:
      source: one of `relpos/data/pairs/sources`.
      sources: name -> its options.
      tokenizer: sentencepiece, learned from train and kept in the run; or words (for scan); or bytes.
      vocab_size: of sentencepiece.
      joint_vocabulary: whether both sides have one vocabulary and one table of embeddings.
    """

    source: Annotated[str, name_in(pairs_data)] = "cldr"
    sources: Options = options_of(pairs_data)
    tokenizer: Literal["sentencepiece", "words", "bytes"] = "sentencepiece"
    vocab_size: Positive = 1000
    joint_vocabulary: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How translations are searched for.

    Attributes:
      beams: 1: greedily.
      length_penalty: see `relpos.nn.Beams`.
      max_length: the most tokens of a translation; None: those of sequence_length.
      most_pairs: of a test split that are translated, drawn from all over it; None: all.
      oracle_length: whether exact match at the true length is scored as well.
    """

    beams: Positive = 4
    length_penalty: Annotated[float, at_least(0)] = 0.6
    max_length: Positive | None = None
    most_pairs: Positive | None = None
    oracle_length: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TransformerRunConfig):
    """The config of translation.

    Attributes:
      sequence_length: the most tokens of a sentence, its end counted.
      batch_size: pairs.
      decoder_encoding: of the decoder's self-attention; "": as the encoder's.
      cross_encoding: of the attention from decoder to encoder.
      data: the pairs.
      label_smoothing: the part of the loss that all tokens share alike.
      eval_pairs: of the validation pairs, translated while training; 0: loss alone.
      search: how translations are searched for.
    """

    sequence_length: Annotated[int, at_least(2)] = 128
    decoder_encoding: str = ""
    cross_encoding: str = "none"
    data: DataConfig = DataConfig()
    label_smoothing: Fraction = 0.0
    eval_pairs: Annotated[int, at_least(0)] = 100
    search: SearchConfig = SearchConfig()
