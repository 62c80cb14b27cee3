"""Translation by an encoder-decoder."""

from relpos.tasks.translation.config import Config as Config
from relpos.tasks.translation.task import Translation

create = Translation
