"""What schemes that rotate share: which dimensions turn together, and how a model is stretched. It holds no scheme."""

from relpos.encodings.rotations.pairs import check_head_dim as check_head_dim
from relpos.encodings.rotations.pairs import check_layout as check_layout
from relpos.encodings.rotations.pairs import rotated as rotated
from relpos.encodings.rotations.pairs import turning_often as turning_often
