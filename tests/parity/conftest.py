"""The parity suite: skipped without the foreign modules; at its end it prints the largest differences."""

import collections

import jax
import pytest

WANTED = ("torch", "transformers", "x_transformers")
REASON = "pip install -e '.[dev,parity]' brings the modules that these tests compare with"
DIFFERENCES = (
    "differences"  # the key of a report's property, which also passes from a worker's process
)


class OfForeignModules(pytest.Module):
    """A file of tests that imports foreign modules."""

    def collect(self):
        for name in WANTED:
            pytest.importorskip(name, reason=REASON)
        return super().collect()


def pytest_pycollect_makemodule(module_path, parent):
    return OfForeignModules.from_parent(parent, path=module_path)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def agree(request, record_property):
    """`comparing.assert_agree` that names the case and records the differences."""
    from tests.parity import comparing

    def noted(*args, **kw):
        found = comparing.assert_agree(*args, case=request.node.name, **kw)
        family = request.path.name.removesuffix("_test.py")
        record_property(DIFFERENCES, [family, found])

    return noted


def pytest_terminal_summary(terminalreporter):
    """Print for each file how many arrays were compared, and the largest differences."""
    families = collections.defaultdict(list)
    for report in terminalreporter.stats.get("passed", []):
        for key, value in report.user_properties:
            if key == DIFFERENCES:
                families[value[0]].append(value[1])
    if not families:
        return
    terminalreporter.section("parity: the largest difference of outputs and gradients")
    for family, found in sorted(families.items()):
        arrays = [array for each in found for array in each]
        terminalreporter.write_line(
            f"{family:20} {len(found):4} comparisons, {len(arrays):5} arrays: absolute "
            f"{max(absolute for absolute, _ in arrays):.1e}, relative {max(relative for _, relative in arrays):.1e}"
        )
    of_all = [each for found in families.values() for each in found]
    terminalreporter.write_line(
        f"{'all':20} {len(of_all):4} comparisons, {sum(map(len, of_all)):5} arrays"
    )
