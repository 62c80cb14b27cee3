"""Flax NNX modules: attention with relative positions, its cache, and Transformers made of it."""

from relpos.nn.attention import RelativeAttention as RelativeAttention
from relpos.nn.attention_fn import attention_fn as attention_fn
from relpos.nn.beam_search import Beams as Beams
from relpos.nn.beam_search import beam_search as beam_search
from relpos.nn.cache import Cache as Cache
from relpos.nn.cross_attention import CrossAttention as CrossAttention
from relpos.nn.cross_attention import Memory as Memory
from relpos.nn.decoder import Decoder as Decoder
from relpos.nn.earlier import Earlier as Earlier
from relpos.nn.encoder import Encoder as Encoder
from relpos.nn.encoder import SpanEncoder as SpanEncoder
from relpos.nn.encoder import TokenEncoder as TokenEncoder
from relpos.nn.encoder_decoder import EncoderDecoder as EncoderDecoder
from relpos.nn.generate import Sampling as Sampling
from relpos.nn.generate import generate as generate
from relpos.nn.rows import continue_rows as continue_rows
from relpos.nn.rows import most_probable as most_probable
from relpos.nn.transformer_config import TransformerConfig as TransformerConfig
