"""Pages in a real browser: no overflow on a phone or a desk, dark where it is asked for, and no script runs."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from pages_support import HOSTILE, judged, make_run, make_tuned

from gpt1_jax.pages.facts import read_facts
from gpt1_jax.pages.page import make_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed; apt-get install chromium")

# A frame as wide as the screen that is asked for, and what its document measures.
FRAME = """<body style="margin:0"><iframe id="frame" style="border:0;width:{width}px;height:900px" srcdoc="{page}">
</iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("frame").contentDocument, root = page.documentElement;
  const style = page.defaultView.getComputedStyle(page.body);
  const wide = [...page.querySelectorAll("body *")].filter(
    (e) => !e.closest(".wide") && !e.closest("svg") && e.getBoundingClientRect().right > {width} + 1);
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title, width: root.scrollWidth, background: style.backgroundColor, ink: style.color,
    pictures: [...page.querySelectorAll("svg")].map((e) => e.getBoundingClientRect().height),
    wide: wide.map((e) => e.tagName + "." + e.className),
  }});
}});
</script></body>"""


def measure(page: str, place: Path, width: int, dark: bool) -> dict[str, Any]:
    """Returns what the page measures in the browser."""
    place.write_text(FRAME.format(width=width, page=escape(page)))
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={place.parent}/profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={max(width, 500)},1000",
            f"file://{place}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1440, False)])
def test_a_page_fits_a_phone_and_a_desk_in_light_and_dark(tmp_path: Path, width: int, dark: bool) -> None:
    pretrained = read_facts(make_run(tmp_path / ("a long name " * 8), sample=HOSTILE))
    tuned = read_facts(
        make_tuned(tmp_path / "tuned"), judged(names=(HOSTILE, "good"), text="long" * 60 + HOSTILE)
    )
    # One page in one start of the browser: all that the sections of both kinds of runs have.
    found = measure(make_page([pretrained, tuned]), tmp_path / "frame.html", width, dark)
    assert found["title"] == "2 runs · gpt1_jax"
    assert found["width"] <= width and found["wide"] == []
    assert len(found["pictures"]) > 5 and all(height > 80 for height in found["pictures"])
    shades = [sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("background", "ink")]
    assert (shades[0] < 200 < shades[1]) if dark else (shades[0] > 600 > shades[1])
