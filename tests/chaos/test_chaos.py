"""A short storm on each engine at hand, and the proof that the suite sees a mechanism that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.chaos import databases
from tests.chaos.mutations import MUTATIONS
from tests.chaos.plan import Action, make_plan

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install 'otel-storage[django]'")
SEED = 4
ROUNDS = 4


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", *databases.OWN_SERVERS])
def test_nothing_is_lost(engine: str) -> None:
    """Writers and senders are killed, the receiver and the server taken away: what arrives is what was committed."""
    _assert_nothing_is_lost(_storm("--url", engine, "--kills", "6", seconds=7))


@pytest.mark.slow
def test_nothing_is_lost_of_what_celery_runs() -> None:
    """The same while Celery runs pipelines too, and children of its pool are killed."""
    arguments = ("--url", "postgresql", "--redis", services.redis_server())
    _assert_nothing_is_lost(_storm(*arguments, seconds=12))


@pytest.mark.slow
@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_broken_mechanism_is_seen(mutation: str) -> None:
    """With the mechanism broken a storm loses spans, and the command says so and fails.

    On a busy machine one storm may be over before a kill or a fault hits what is broken, so that others follow.
    """
    code, outcome, words = 0, dict[str, Any](), ""
    for seed in range(SEED, SEED + ROUNDS):
        if code == 0:
            code, outcome, words = _storm("--mutate", mutation, seconds=12, seed=seed)

    assert code == 1, words
    assert outcome["lost"] > 0, words
    assert any("lost" in problem for problem in outcome["problems"])
    assert f"replay with: python -m tests.chaos --mutate {mutation}" in words


def test_a_seed_makes_one_plan() -> None:
    """The same seed plans the same, another one something else; every kind of fault has its turn, and ends."""
    plans = [make_plan(seed, 60, kills=4, lease=3, restarts_database=True, has_celery=True) for seed in (1, 1, 2)]

    assert plans[0] == plans[1] != plans[2]
    assert {event.action for event in plans[0]} == set(Action)
    assert all(0 <= event.at <= 60 and 0 <= event.pick < 1 for event in plans[0])
    for begin, end in (
        (Action.STOP_DATABASE, Action.START_DATABASE),
        (Action.PAUSE_SENDER, Action.RESUME_SENDER),
        (Action.FREEZE_RECEIVER, Action.RECOVER),
    ):
        assert [event.action for event in plans[0] if event.action in (begin, end)][-1] is end


def _storm(*arguments: str, seconds: float, seed: int = SEED) -> tuple[int, dict[str, Any], str]:
    """The command in a process of its own: its exit code, its figures and its words."""
    minutes = ("--minutes", str(seconds / 60), "--seed", str(seed), "--json")
    process = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments, *minutes],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
    )
    return process.returncode, json.loads(process.stdout or "{}"), process.stderr


def _assert_nothing_is_lost(result: tuple[int, dict[str, Any], str]) -> None:
    code, outcome, words = result
    if code == databases.NO_SERVER:
        services.missing(words)
    assert code == 0, words
    assert outcome["problems"] == []
    # The storm was one.
    assert outcome["kills"] > 0
    assert outcome["requests that went wrong"] > 0
    assert outcome["outages of the receiver"] > 0
    assert outcome["engine"] == "sqlite" or outcome["restarts of the database"] > 0
    assert outcome["received"] == outcome["spans expected"] > 0
