"""Attention with relative positions: one function, several paths that agree."""

from relpos.attention.api import attention as attention
from relpos.attention.api import tabulate as tabulate
from relpos.attention.api import transform_keys as transform_keys
from relpos.attention.distances import Tables as Tables
from relpos.attention.slots import PerHead as PerHead
from relpos.attention.slots import PerHeadConstant as PerHeadConstant
from relpos.attention.slots import Slots as Slots
from relpos.attention.slots import split_heads as split_heads
