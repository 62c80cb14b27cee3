"""Optimizers by name. Each module defines create(rate, **options), which returns a gradient transformation."""

from relpos.registry import Functions

_OPTIMIZERS = Functions(__name__, "create", "optimizer")
names, options, call = _OPTIMIZERS.names, _OPTIMIZERS.options, _OPTIMIZERS.call
