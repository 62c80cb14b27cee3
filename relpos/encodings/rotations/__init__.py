"""What rotating schemes share: pairs of dimensions, and scalings to longer rows. It holds no scheme."""
