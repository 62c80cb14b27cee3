"""Attention with relative positions: one function, several paths that agree.

`relpos.attention` is both this package and a function of the same name: the package is callable, since otherwise
`import relpos.attention as ra` would bind the function only.
"""

import inspect
import sys
import types
from typing import Any

from relpos.attention.api import attention as attention
from relpos.attention.api import tabulate as tabulate
from relpos.attention.choices import NoKernelError as NoKernelError
from relpos.attention.distances import Tables as Tables
from relpos.attention.per_head import PerHead as PerHead
from relpos.attention.per_head import PerHeadConstant as PerHeadConstant
from relpos.attention.per_head import PerKeyHead as PerKeyHead
from relpos.attention.per_head import PerKeyHeadConstant as PerKeyHeadConstant
from relpos.attention.slots import Passed as Passed
from relpos.attention.slots import Slots as Slots
from relpos.attention.slots import split_heads as split_heads
from relpos.attention.transforms import keys as transform_keys  # noqa: F401
from relpos.attention.transforms import match_heads as match_heads
from relpos.attention.transforms import values as transform_values  # noqa: F401


class _CallablePackage(types.ModuleType):
    __signature__ = inspect.signature(attention)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return attention(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
