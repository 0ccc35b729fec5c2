"""Where output goes."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from otel_storage.cli.output import Output


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it is shown how much is done, and never more than there was to do."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Output().progress("Replaying", "runs", lambda: 7) as show:
            show(3)
            show(9)
        # A terminal gives what was written in parts: until the cursor is shown again, which is the last of it.
        shown = ""
        while "\x1b[?25h" not in shown:
            shown += os.read(ours, 100_000).decode()
    os.close(ours)
    assert "Replaying" in shown
    assert "7/7" in shown
    assert "9/7" not in shown


def test_no_progress_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is counted or shown."""
    with Output().progress("Replaying", "runs", lambda: pytest.fail("counted")) as show:
        show(3)
    assert capsys.readouterr() == ("", "")
