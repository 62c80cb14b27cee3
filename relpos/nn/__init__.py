"""Flax NNX modules: attention with relative positions, its cache, and a decoder."""

from relpos.nn.attention import RelativeAttention as RelativeAttention
from relpos.nn.cache import Cache as Cache
from relpos.nn.decoder import Decoder as Decoder
from relpos.nn.decoder import DecoderConfig as DecoderConfig
from relpos.nn.generate import Sampling as Sampling
from relpos.nn.generate import generate as generate
