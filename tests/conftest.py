"""What all tests share."""

import gc
import importlib.metadata
import os

# Programs here are small and run once: most of their compile time is LLVM's optimiser, the cutting of a program into
# parts that threads compile side by side and, without it, the emitters of fusions. Set XLA_FLAGS, be it to nothing, to
# test what users run.
# JAX 0.11 has no such emitters to switch off, and dies of a flag that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")),
)
# Writing where in Python each operation came from is a tenth of the time to compile a small program.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest

# A process that kept some hundred compiled programs was seen to crash in XLA's compiler: let go of them in time.
_PROGRAMS_AT_MOST = 300
_programs = 0
# Tracing makes many objects that live on: Python looks for garbage among them again and again.
gc.set_threshold(50_000, 20, 20)


@jax.monitoring.register_event_duration_secs_listener
def _count_compiled(event, duration, **_):
    global _programs
    _programs += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture(autouse=True)
def forget_compiled_programs():
    """Clear JAX's caches now and then."""
    global _programs
    yield
    if _programs >= _PROGRAMS_AT_MOST:
        _programs = 0
        jax.clear_caches()
