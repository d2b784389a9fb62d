"""Pages in a real browser: no overflow on a phone or a desk, dark where it is asked for, and no script runs."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages_support import HOSTILE, judged, make_reading, make_run, make_tuned

from gpt1_jax.pages.explorer import make_explorer
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
  const seen = [], wide = [...page.querySelectorAll("body *")].filter(
    (e) => !e.closest(".wide") && !e.closest("svg") && e.getBoundingClientRect().right > {width} + 1);
  {steps}
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title, width: root.scrollWidth, background: style.backgroundColor, ink: style.color,
    pictures: [...page.querySelectorAll("svg")].map((e) => e.getBoundingClientRect().height),
    wide: wide.map((e) => e.tagName + "." + e.className), seen,
  }});
}});
</script></body>"""


def measure(page: str, place: Path, width: int, dark: bool, steps: str = "") -> dict[str, Any]:
    """Returns what the page measures in the browser, and what `steps`, a script, has put into `seen`."""
    place.write_text(FRAME.format(width=width, page=escape(page), steps=steps))
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={place.parent}/profile", "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={max(width, 500)},1000",
            f"file://{place}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert not re.search("CONSOLE.*(Uncaught|Error|Refused)", done.stderr), done.stderr[-2000:]
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


# Looks at the first model of the page by mouse and keys, and notes the strip of attention and the bars.
EXPLORE = """
  const press = (key) => page.activeElement.dispatchEvent(
    new page.defaultView.KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const at = (name) => [...page.querySelector(".reading").querySelectorAll(name)];
  const note = () => seen.push({
    strip: at(".seen button").map((e) => Number(e.style.getPropertyValue("--heat"))),
    chosen: at(".surprisal button").findIndex((e) => e.ariaPressed === "true"),
    bars: at(".next ol")[0].textContent, told: at(".attention > p")[1].textContent,
    journey: at(".journey tr").length, canvases: at("canvas").length,
  });
  note();
  at(".surprisal button")[3].click();
  at(".surprisal button")[3].focus();
  press("ArrowLeft"); press("ArrowLeft"); press("Home"); press("ArrowRight");
  note();
  at(".heads button")[4].dispatchEvent(new page.defaultView.MouseEvent("mouseenter"));
  note();
  at(".heads")[0].dispatchEvent(new page.defaultView.MouseEvent("mouseleave"));
  at(".heads button")[2].click();
  note();
  at(".lens tbody td")[3].click();
  note();
"""


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1440, False)])
def test_an_explored_text_fits_and_shows_what_is_pointed_at(tmp_path: Path, width: int, dark: bool) -> None:
    pieces = ["a", " b", HOSTILE, "שלום", "\n", "🙂", "", "long" * 40]
    one, other = (make_reading(pieces, run=run, seed=seed) for seed, run in enumerate(("one", HOSTILE)))
    found = measure(make_explorer("the text", [one, other]), tmp_path / "frame.html", width, dark, EXPLORE)
    assert found["title"].startswith("the text · one and ")
    assert found["width"] <= width and found["wide"] == []
    first, keys, hovered, clicked, cell = found["seen"]
    mean = np.sqrt(one.attention.mean(1))
    np.testing.assert_allclose(first["strip"], mean[1, 7], atol=0.01)
    assert first["chosen"] == 7 and first["journey"] == 3 and first["canvases"] == 6
    # After Home and one step to the right.
    np.testing.assert_allclose(keys["strip"], mean[1, 1], atol=0.01)
    assert keys["chosen"] == 1 and keys["bars"].startswith("␣b50 %␣other25 %</script>")
    np.testing.assert_allclose(hovered["strip"], np.sqrt(one.attention[1, 1, 1]), atol=0.01)
    assert "“␣b” attends in layer 2, head 2" in hovered["told"]
    np.testing.assert_allclose(clicked["strip"], np.sqrt(one.attention[0, 2, 1]), atol=0.01)
    assert cell["chosen"] == 3
