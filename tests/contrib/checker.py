"""A process of a project that checks itself as often as it is asked: one JSON document a line, in and out.

In: ``settings`` and ``environment`` to change for the while, ``databases`` to check, and ``script``, a function ``run``
to call instead of the checks. Out: ``messages`` of ours (level, id, msg, hint), ``threads`` of ours that were begun.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import redirect_stdout
from typing import Any

import django
from django.core.checks import run_checks
from django.test.utils import override_settings


def main() -> None:
    """Answer until there are no more questions."""
    django.setup()
    answers = sys.stdout
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            answer = check(json.loads(line))
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def check(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question."""
    before = dict(os.environ)
    os.environ.update(question["environment"])
    try:
        with override_settings(**question["settings"]):
            messages = run_checks(databases=question["databases"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {
        "messages": [
            {"level": message.level, "id": message.id, "msg": message.msg, "hint": message.hint}
            for message in messages
            if message.id and message.id.startswith("otel_storage")
        ],
        "threads": [thread.name for thread in threading.enumerate() if thread.name == "otel-storage-delivery"],
    }


if __name__ == "__main__":
    main()
