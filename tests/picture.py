"""Draws the picture of README.md: ``python -m tests.picture`` writes ``.github/show.svg``.

The picture is what ``otel-storage show`` prints in a terminal for the failed run of ``otel-storage demo``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from io import StringIO
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from tests.processes import ROOT

PICTURE = ROOT / ".github" / "show.svg"
PIPELINE = "demo.MonthlyInvoices"
COLUMNS = 92

_SVG = "{http://www.w3.org/2000/svg}"
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own form without its web fonts: a page that shows the picture must load nothing from elsewhere."""


def printed() -> str:
    """What ``otel-storage show`` prints for the failed run of a fresh demo, with the codes of its colours."""
    with tempfile.TemporaryDirectory() as folder:
        demo = json.loads(_command(folder, "demo", "--json"))
        [run_id] = [run["run_id"] for run in demo["runs"] if run["pipeline_id"] == PIPELINE]
        return _command(folder, "show", run_id, FORCE_COLOR="1", COLUMNS=str(COLUMNS))


def drawn(output: str) -> str:
    """The output of a terminal as SVG."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(output), no_wrap=True, overflow="crop")
    # A fixed id: a new picture differs from the one before in what it shows alone.
    return console.export_svg(title="otel-storage show", code_format=_FORMAT, theme=SVG_EXPORT_THEME, unique_id="show")


def words(svg: str) -> list[list[str]]:
    """The words of each line of a picture, without those that differ from run to run: ids, times, lengths."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for text in ElementTree.fromstring(svg).iter(f"{_SVG}text"):  # noqa: S314 - a picture of ours
        if text.get("y") is not None and text.get("clip-path") is not None:
            place = (float(text.get("x", "0")), text.text or "")
            lines.setdefault(float(text.get("y", "0")), []).append(place)
    found = (" ".join(piece for _, piece in sorted(lines[y])).replace("\xa0", " ") for y in sorted(lines))
    return [kept for line in found if (kept := _kept(line))]


def _kept(line: str) -> list[str]:
    first, *rest = re.findall(r"[^\W\d_][\w:.]*", line) or [""]
    if first in ("run", "trace", "started") and not re.search("[✓✗]", line):
        return [first]
    return [word for word in (first, *rest) if word and word not in ("ms", "s")]


def _command(folder: str, *arguments: str, **environment: str) -> str:
    """What the command prints, in the folder and with nothing of the caller's settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and name not in ("NO_COLOR", "FORCE_COLOR", "DJANGO_SETTINGS_MODULE")
    }
    return subprocess.run(
        [sys.executable, "-m", "otel_storage.cli", *arguments],
        cwd=folder,
        env={
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8",
            "TZ": "UTC",
            # Nothing answers there: the demo waits for no collector, and sends to none that happens to run.
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            **environment,
        },
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    ).stdout


def main() -> None:
    """Write the picture."""
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawn(printed()), encoding="utf-8")


if __name__ == "__main__":
    main()
