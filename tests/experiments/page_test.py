"""The page of a report, in a browser as wide as a phone and as a desktop."""

import json
import re
import shutil
import subprocess

import pytest

from relpos.experiments import page
from relpos.experiments.job import Job
from relpos.experiments.measures import Report
from relpos.experiments.spec import folder_of
from tests.experiments.report_test import sweep_of
from tests.experiments.sweeping import ROOT

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# A window may not be as narrow as a phone: the page is read in a frame, of which this tells what can be seen.
FRAME = """
<iframe id="frame" src="page.html" style="width:WIDTHpx;height:900px;border:0"></iframe><pre id="told"></pre>
<script>
addEventListener("load", () => {
  const inside = document.getElementById("frame").contentDocument, root = inside.documentElement;
  const told = {overflow: root.scrollWidth - root.clientWidth, clipped: [], smallest: 99, texts: 0,
    pictures: inside.querySelectorAll(".pictures svg").length};
  for (const text of inside.querySelectorAll(".pictures svg text")) {
    const box = text.getBoundingClientRect(), svg = text.closest("svg").getBoundingClientRect();
    const shown = box.left >= svg.left - 1 && box.right <= svg.right + 1 && box.top >= svg.top - 1
      && box.bottom <= svg.bottom + 1;
    const size = parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
    if (!shown) told.clipped.push(text.textContent);
    if (text.getScreenCTM().b == 0) told.smallest = Math.min(told.smallest, size);
    told.texts += 1;
  }
  document.getElementById("told").textContent = JSON.stringify(told);
});
</script>
"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [3, 42])
def test_everything_is_seen_at(width, count, tmp_path):
    results = sweep_of(count)
    for number, run in enumerate(results["runs"]):  # the curves are read from the run directories
        run["point"]["batch_size"] = 2 * (1 + number % 2)  # two x, a panel each
        workdir = tmp_path / "runs" / folder_of(run["point"])
        workdir.mkdir(parents=True)
        lines = [
            {"split": split, "step": step, "bits_per_byte": 8.0 / step, "loss": 5.0 / step}
            for split in ("train", "validation")
            for step in (1, 2, 300)
        ]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = Report.suggested(results, "a sweep of many schemes")
    job = Job("a sweep", report, results, tmp_path / "runs")
    (tmp_path / "page.html").write_text(page.page("a sweep", [job], "relpos sweep " + "x" * 300))
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=5000",
         "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    told = json.loads(re.search(r'<pre id="told">(.*?)</pre>', done.stdout)[1])
    assert told["pictures"] == 1 + 2 + 4  # results; lengths and both curves at each x
    assert told["texts"] > 20
    assert told["overflow"] == 0
    assert told["clipped"] == []
    assert told["smallest"] >= 9  # pixels


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("experiments/*/results/*.html")), ids=lambda path: path.parts[-3]
)
def test_pages_of_experiments_name_no_folder_of_the_machine_that_ran_them(path):
    folders = re.findall(r"--workdir '?([^/\s]*/)", path.read_text())
    assert set(folders) == {"runs/"}
