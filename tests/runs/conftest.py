"""What tests of runs share with those of training."""

from tests.training.conftest import compilation_cache as compilation_cache
from tests.training.conftest import toy_config as toy_config
