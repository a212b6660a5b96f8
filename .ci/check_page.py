"""Open a page of `convlane explain` in headless Chromium: it must log nothing to the console and work as documented.

Its column of times must be visible in a window of 1300 pixels, even for a large network.

Usage: check_page.py FOLDER, an existing one, where the page and screenshots in light and dark are left.
"""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from convlane import analysis, models
from convlane.cli import main

# What a user does with the first layer, by pointer and keyboard; the outcome is stored in the document.
DRIVER = """<script>
(async () => {
  const seen = {}, where = document.getElementById("where"), box = document.getElementById("box");
  const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const button = document.querySelector("button[data-layer]");
  seen.followed = document.activeElement.textContent;
  button.click();
  const maps = button.closest("tr").nextElementSibling.querySelector(".maps"), image = maps.querySelector("img");
  await image.decode();
  seen.expanded = button.getAttribute("aria-expanded");
  const place = image.getBoundingClientRect();
  maps.dispatchEvent(new PointerEvent("pointermove", { clientX: place.left + 1, clientY: place.top + 1 }));
  seen.corner = where.textContent;
  seen.hidden = box.hidden;
  maps.focus();
  key(maps, "ArrowRight");
  seen.right = where.textContent;
  key(maps, "Escape");
  seen.closed = button.getAttribute("aria-expanded");
  seen.back = document.activeElement === button;
  key(button, "ArrowDown");
  seen.down = document.activeElement.textContent;
  document.querySelector("tr[data-step]").dispatchEvent(new PointerEvent("pointerenter"));
  seen.lit = document.querySelectorAll(".on").length;
  document.getElementById("theme").click();
  seen.theme = document.documentElement.dataset.theme;
  seen.paper = getComputedStyle(document.body).backgroundColor;
  document.body.dataset.seen = JSON.stringify(seen);
})();
</script>
"""

# Where the column of times ends, and where what is seen of the table does.
RULER = """<script>
const times = [...document.querySelectorAll("#table thead th")].find((cell) => cell.textContent === "ms");
const ends = [times, times.closest(".wide")].map((element) => element.getBoundingClientRect().right);
document.body.dataset.ends = JSON.stringify([...ends, document.documentElement.clientWidth]);
</script>
"""


def chromium(*arguments):
    """Run Chromium and return what it prints; any output of the page to the console is an error."""
    usual = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    result = subprocess.run(["chromium", *usual, *arguments], capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    return result.stdout


def check(folder):
    """Make a page, use it and check what happened."""
    picture, page, driven = (folder / name for name in ("picture.png", "page.html", "driven.html"))
    Image.linear_gradient("L").save(picture)
    assert main(["explain", "resnet20", str(picture), "--out", str(page)]) == 0
    text = page.read_text("utf-8")
    driven.write_text(text.replace("</body>", DRIVER + "</body>"), "utf-8")
    dom = chromium("--dump-dom", "--virtual-time-budget=5000", f"{driven.as_uri()}#layer=layer2.0.conv1")
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    field = analysis.receptive_field(models.create("resnet20")).fields[0]
    assert seen == {
        "followed": "layer2.0.conv1",
        "expanded": "true",
        "corner": "conv1: channel 0, position (0, 0) " + sees(field.box(0, 0)),
        "hidden": False,
        "right": "conv1: channel 0, position (0, 1) " + sees(field.box(0, 1)),
        "closed": "false",
        "back": True,
        "down": "bn1",
        "lit": 2,
        "theme": "dark",
        "paper": "rgb(21, 24, 28)",
    }, seen
    large = folder / "large.html"
    size = ["--size", "64", "--channels", "1"]
    assert main(["explain", "efficientnet_v2_l", str(picture), *size, "--out", str(large)]) == 0
    large.write_text(large.read_text("utf-8").replace("</body>", RULER + "</body>"), "utf-8")
    dom = chromium("--dump-dom", "--window-size=1300,1000", large.as_uri())
    times, table, window = json.loads(re.search(r'data-ends="([^"]*)"', dom)[1])
    assert times <= table <= window == 1300, (times, table, window)
    for theme in ("light", "dark"):
        page.write_text(text.replace("<html ", f'<html data-theme="{theme}" '), "utf-8")
        chromium(f"--screenshot={folder / theme}.png", "--window-size=1400,1000", page.as_uri())


def sees(box):
    """Return what the page says of a field."""
    top, bottom, left, right = box
    rows = f"sees rows {top} to {bottom} and columns {left} to {right} of 32 x 32."
    return f"{rows} The field is 3 x 3, including padding."


if __name__ == "__main__":
    check(Path(sys.argv[1]).resolve())
