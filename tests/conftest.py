"""What all tests share."""

import importlib.metadata
import os

# Programs here are small and run once: most of their compile time is LLVM's optimiser and, without it, the emitters of
# fusions. Set XLA_FLAGS, be it to nothing, to test what users run.
# JAX 0.11 has no such emitters to switch off, and dies of a flag that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")),
)

import jax
import pytest

# A process that kept some hundred compiled programs was seen to crash in XLA's compiler: let go of them in time.
_TESTS_BETWEEN_CLEARING = 25
_since_clearing = 0


@pytest.fixture(autouse=True)
def forget_compiled_programs():
    """Clear JAX's caches now and then."""
    global _since_clearing
    yield
    _since_clearing += 1
    if _since_clearing == _TESTS_BETWEEN_CLEARING:
        _since_clearing = 0
        jax.clear_caches()
