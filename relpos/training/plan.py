"""A summary of a run, printed before it starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from rich.filesize import decimal

from relpos import cores, device_memory
from relpos.training.run_config import RunConfig


def plan(
    config: RunConfig,
    facts: Mapping[str, Any],
    model: nnx.State,
    optimizer: Any,
    workdir: Path,
) -> list[str]:
    """Return lines about the model, device, data, steps and directory of a run.

    `facts` are those of `Task.describe`; `model` and `optimizer` may be shapes.
    """
    parameters = sum(x.size for x in jax.tree.leaves(model))
    state = decimal(device_memory.tree_bytes((model, optimizer)))
    found = {
        "model": f"{parameters:,} parameters, {state} with the optimizer",
        "device": _device(config.batch_size, model),
        "corpus": _corpus(facts.get("corpus", {})),
        "steps": f"{config.steps:,} of {config.batch_size:,} x {config.sequence_length:,} tokens at most",
        "writes to": str(workdir),
    }
    return [f"{name:<11}{text}" for name, text in found.items() if text]


def _device(rows: int, model: nnx.State) -> str:
    used = cores.sharing(rows, model)
    kind, idle = used[0].device_kind, len(jax.local_devices()) - len(used)
    if len(used) > 1:
        kind = f"{kind}, {len(used)} cores with {rows // len(used)} rows of each batch"
    elif idle:
        return f"{kind}, one of {idle + 1}: the others are idle"
    return f"{kind}; idle: {idle}" if idle else kind


def _corpus(facts: Mapping[str, Any]) -> str:
    """Return ``library_text, train: 1,234 documents, 5.1 MB``, as far as the facts are known."""
    counts = facts.get("splits", {}).get("train", {})
    size = sum(number for name, number in counts.items() if name.endswith("bytes"))
    shown = [f"{number:,} {name}" for name, number in list(counts.items())[:1]]
    shown += [decimal(size)] if size else []
    return f"{facts.get('name', '')}, train: {', '.join(shown)}" if shown else facts.get("name", "")
