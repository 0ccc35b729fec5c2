"""A short storm on each engine at hand, and the proof that the suite sees a mechanism that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.chaos import databases
from tests.chaos.mutations import MUTATIONS
from tests.chaos.plan import Action, make_plan

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")
SEED = 4
ROUNDS = 4
"""Storms that may follow each other: on a busy machine one may be over before each kind of fault has happened."""

LIMIT = 240
"""Seconds that the calm after a storm may take, on a busy machine too: Celery comes to rest, and all is sent."""

KILLS = 200
"""Processes that are killed on each engine where the suite has the time."""

FAULTS = ("kills", "requests that went wrong", "outages of the receiver", "restarts of the database")

ENGINES = ["sqlite", *databases.OWN_SERVERS]


@pytest.mark.slow
@pytest.mark.timeout(ROUNDS * (LIMIT + 15))
@pytest.mark.parametrize("engine", [pytest.param(ENGINES[0], marks=pytest.mark.smoke), *ENGINES[1:]])
def test_nothing_is_lost(engine: str) -> None:
    """Writers and senders are killed, the receiver and the server taken away: what arrives is what was committed."""
    _assert_nothing_is_lost("--url", engine, "--kills", "6", seconds=7)


@pytest.mark.slow
@pytest.mark.timeout(ROUNDS * (LIMIT + 15))
def test_nothing_is_lost_of_what_celery_runs() -> None:
    """The same while Celery runs pipelines too, and children of its pool are killed."""
    _assert_nothing_is_lost("--url", "postgresql", "--redis", services.redis_server(), seconds=12)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("has_celery", [False, True], ids=["", "celery"])
@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_lost_in_many_kills(
    engine: str, has_celery: bool, record_property: Callable[[str, object], None]
) -> None:
    """The same by hundreds of kills on each engine."""
    arguments = ["--url", engine, *(["--redis", services.redis_server()] if has_celery else [])]
    happened = _assert_nothing_is_lost(*arguments, seconds=45, kills=KILLS, rounds=10)
    record_property("figure", f"{engine}{' with Celery' if has_celery else ''}: {happened}")


@pytest.mark.long
@pytest.mark.timeout(ROUNDS * (LIMIT + 15))
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_broken_mechanism_is_seen(mutation: str) -> None:
    """With the mechanism broken a storm loses spans, and the command says so and fails."""
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
        timeout=seconds + LIMIT,
        check=False,
    )
    return process.returncode, json.loads(process.stdout or "{}"), process.stderr


def _assert_nothing_is_lost(*arguments: str, seconds: float, kills: int = 1, rounds: int = ROUNDS) -> dict[str, int]:
    """Let storms follow each other until as many processes were killed, and each kind of fault has happened.

    Returns:
        How often what happened, in all of them.
    """
    happened = Counter[str]()
    for seed in range(SEED, SEED + rounds):
        code, outcome, words = _storm(*arguments, seconds=seconds, seed=seed)
        if code == databases.NO_SERVER:
            services.missing(words)
        assert code == 0, words
        assert outcome["problems"] == []
        assert outcome["received"] == outcome["spans expected"] > 0
        happened.update({name: outcome[name] for name in FAULTS})
        wanted = dict.fromkeys(FAULTS, 1) | {"kills": kills}
        if outcome["engine"] == "sqlite":
            # No server that could be restarted.
            del wanted["restarts of the database"]
        if all(happened[name] >= number for name, number in wanted.items()):
            return dict(happened)
    raise AssertionError(f"{rounds} storms were too calm: {dict(happened)}")
