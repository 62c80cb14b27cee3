"""Encodings composed of others: sums, and heads of several kinds."""

from relpos.encodings.composed.by_heads import ByHeads as ByHeads
from relpos.encodings.composed.sums import Sum as Sum
