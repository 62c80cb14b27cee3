"""Functions that rotating schemes share: pairs of dimensions, and scalings to longer rows. It holds no scheme."""

from relpos.encodings.rotations.pairs import check_head_dim as check_head_dim
from relpos.encodings.rotations.pairs import check_layout as check_layout
from relpos.encodings.rotations.pairs import rotated as rotated
from relpos.encodings.rotations.pairs import turning_often as turning_often
