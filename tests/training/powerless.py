"""The rights of nobody, for tests of files that may not be read or written."""

import contextlib
import os


@contextlib.contextmanager
def powerless():
    """Root may read and write anything, so it becomes nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
