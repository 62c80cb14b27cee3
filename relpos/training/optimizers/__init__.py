"""Optimizers by name: each file has create(rate, **options), which returns the gradient transformation."""

from relpos.registry import Functions

_OPTIMIZERS = Functions(__name__, "create", "optimizer")
names, options, call = _OPTIMIZERS.names, _OPTIMIZERS.options, _OPTIMIZERS.call
