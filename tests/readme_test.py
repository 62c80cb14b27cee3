import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs_and_gives_what_it_says():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found = {}
    exec(example, found)
    assert found["out"].shape == (2, 128, 8, 64)
    assert found["y"].shape == (2, 128, 512)
