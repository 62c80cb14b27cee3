"""What rotating schemes share: pairs of dimensions, and scalings to longer rows. It holds no scheme."""

from relpos.encodings.rotations.pairs import LAYOUTS as LAYOUTS
from relpos.encodings.rotations.pairs import Rotation as Rotation
from relpos.encodings.rotations.pairs import rotated as rotated
from relpos.encodings.rotations.pairs import turning_often as turning_often
