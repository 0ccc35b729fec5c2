"""The storm: processes, a plan of what goes wrong, and the calm in which all must be as it should."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from otel_storage.composite import OtelPipelineStorage
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.storage import SqlPipelineStorage
from tests.chaos import journal, oracles, roles
from tests.chaos.broker import Broker
from tests.chaos.databases import ChaosDatabase
from tests.chaos.endpoint import Endpoint, faults_of
from tests.chaos.fleet import Fleet
from tests.chaos.plan import Action, Event, make_plan

ROOT = Path(__file__).parents[2]

QUIET = 2.0
"""Seconds without a change after which a run settles although something in it is PENDING."""

LEASE = 3.0
"""Seconds that the lease of a sender lasts."""

TIMEOUT = 1.0
"""Seconds that a sender waits for an answer."""

END_PATIENCE = 20.0
"""Seconds within which a process ends that is told to: the longest that it waits for others, and then some."""

REST_PATIENCE = 120.0
"""Seconds within which Celery has done what it was given."""

DRAIN_PATIENCE = 60.0
"""Seconds within which the outbox is empty once all runs are closed."""

BROKEN_DRAIN_PATIENCE = 15.0
"""The same where the mechanism is broken: it may never be."""

_TICK = 0.02


@dataclass(frozen=True)
class Storm:
    """How long and how hard it blows."""

    seed: int
    seconds: float
    kills: float = 4.0
    """Processes killed a second, on average."""
    writers: int = 3
    senders: int = 2
    redis: str = ""
    """The URL of a broker: runs are given to Celery too."""
    mutation: str = ""
    """The mechanism that is broken on purpose, if any."""


@dataclass
class Outcome:
    """The outcome."""

    storm: Storm
    engine: str
    kills: dict[str, int] = field(default_factory=dict)
    """Processes killed while they ran, by role."""
    faults: dict[str, int] = field(default_factory=dict)
    """Requests that went wrong, by how."""
    outages: int = 0
    restarts: int = 0
    runs: int = 0
    closed: int = 0
    """Runs that were left open by a writer that was killed or lost its database, and closed afterwards."""
    drain: float = 0.0
    """Seconds from the closing of the last run to the empty outbox."""
    findings: oracles.Findings = field(default_factory=oracles.Findings)
    problems: list[str] = field(default_factory=list)
    """The problems; empty if there are none."""


def blow(storm: Storm, database: ChaosDatabase, folder: Path) -> Outcome:
    """Run the storm on an empty database, and hold what came of it against the database."""
    with closing(SqlPipelineStorage(database.url)) as storage:
        storage.upgrade()
        outcome = Outcome(storm, storage.database.dialect)
        broker = Broker(storm.redis, f"chaos_{uuid.uuid4().hex}_") if storm.redis else None
        context = multiprocessing.get_context("forkserver")
        endpoint = Endpoint(context, folder, storm.seed, TIMEOUT)
        _prepare(context, storm, database, endpoint, folder, broker)
        fleet = Fleet(context, folder, storm.seed)
        windows: list[tuple[float, float]] = []
        try:
            endpoint.start()
            _rage(storm, database, endpoint, fleet, windows)
            _come_to_rest(outcome, endpoint, fleet, broker)
            _close_runs(outcome, database, folder, fleet.killed, windows)
            _drain(outcome, storage, folder)
        finally:
            fleet.end()
            endpoint.end()
            if broker is not None:
                broker.forget()
        outcome.kills = {**fleet.kills, "receiver": endpoint.kills}
        outcome.faults = faults_of(folder)
        outcome.outages = endpoint.outages
        outcome.restarts = len(windows)
        outcome.findings = oracles.judge(storage, folder, QUIET)
        outcome.problems += [*fleet.problems, *outcome.findings.problems()]
    return outcome


def _prepare(
    context: ForkServerContext,
    storm: Storm,
    database: ChaosDatabase,
    endpoint: Endpoint,
    folder: Path,
    broker: Broker | None,
) -> None:
    """Have the server of forks load what the processes need, with the settings that they have in common."""
    arguments = {"url": database.url, "settle_quiet": QUIET, "lease": LEASE}
    os.environ.update(
        DJANGO_SETTINGS_MODULE="tests.chaos.settings",
        CHAOS_STORAGE=json.dumps(arguments),
        CHAOS_FOLDER=str(folder),
        CHAOS_REDIS="" if broker is None else broker.url,
        CHAOS_PREFIX="" if broker is None else broker.prefix,
        CHAOS_MUTATION=storm.mutation,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.url,
        OTEL_EXPORTER_OTLP_TIMEOUT=f"{TIMEOUT:g}",
    )
    context.set_forkserver_preload(["tests.chaos.warm"])


def _rage(
    storm: Storm, database: ChaosDatabase, endpoint: Endpoint, fleet: Fleet, windows: list[tuple[float, float]]
) -> None:
    """Start the processes, and do to them what the plan says."""
    has_celery = bool(storm.redis)
    fleet.add("writer", roles.write, storm.writers)
    fleet.add("sender", roles.send, storm.senders)
    fleet.add("operator", roles.operate, 1)
    if has_celery:
        fleet.add("worker", roles.work, 1)
        fleet.add("publisher", roles.publish, 1)
    plan = make_plan(
        storm.seed,
        storm.seconds,
        kills=storm.kills,
        lease=LEASE,
        restarts_database=database.can_restart,
        has_celery=has_celery,
    )
    began = time.monotonic()
    for event in plan:
        while time.monotonic() < began + event.at:
            time.sleep(_TICK)
            fleet.tend()
        _act(event, database, endpoint, fleet, windows)
    while time.monotonic() < began + storm.seconds:
        time.sleep(_TICK)
        fleet.tend()


def _come_to_rest(outcome: Outcome, endpoint: Endpoint, fleet: Fleet, broker: Broker | None) -> None:
    """End the faults, then the processes, each in its own way."""
    endpoint.behave()
    fleet.stop("publisher", END_PATIENCE)
    if broker is not None and not broker.wait_for_rest(REST_PATIENCE):
        outcome.problems.append(f"Celery did not come to rest within {REST_PATIENCE:g} s")
    for role in ("writer", "worker", "operator", "sender"):
        fleet.stop(role, END_PATIENCE)


def _act(
    event: Event,
    database: ChaosDatabase,
    endpoint: Endpoint,
    fleet: Fleet,
    windows: list[tuple[float, float]],
) -> None:
    match event.action:
        case Action.KILL_WRITER:
            fleet.kill("writer", event.pick)
        case Action.KILL_SENDER:
            fleet.kill("sender", event.pick)
        case Action.KILL_OPERATOR:
            fleet.kill("operator", event.pick)
        case Action.KILL_CHILD:
            fleet.kill_child("worker", event.pick)
        case Action.KILL_WORKER:
            fleet.kill("worker", event.pick)
        case Action.PAUSE_SENDER:
            fleet.pause("sender", event.pick)
        case Action.RESUME_SENDER:
            fleet.resume("sender", event.pick)
        case Action.KILL_RECEIVER:
            endpoint.kill()
        case Action.CLOSE_RECEIVER:
            endpoint.close()
        case Action.FREEZE_RECEIVER:
            endpoint.freeze()
        case Action.REFUSE:
            endpoint.refuse()
        case Action.RECOVER:
            endpoint.recover()
        case Action.CALM:
            endpoint.behave()
        case Action.MISBEHAVE:
            endpoint.misbehave()
        case Action.STOP_DATABASE if database.stop is not None:
            windows.append((time.time(), float("inf")))
            database.stop()
        case Action.START_DATABASE if database.start is not None:
            database.start()
            windows[-1] = windows[-1][0], time.time()


def _close_runs(
    outcome: Outcome,
    database: ChaosDatabase,
    folder: Path,
    killed: dict[int, tuple[str, float]],
    windows: list[tuple[float, float]],
) -> None:
    """Close the runs that were left open, as somebody does who knows that their processes are gone.

    Each must have been left by a process that was killed, or lost its database.
    """
    # Imported here: the module imports the host's reporter, which needs configured settings.
    from tests.chaos.reporting import JournalReporter

    begun: dict[str, _Begun] = {}
    ended: dict[str, tuple[str, str, float]] = {}
    for what, run_id, text, pid, at in journal.read(folder, roles.RUNS):
        if what in ("begin", "publish"):
            begun[run_id] = _Begun(text, pid, at, in_celery=what == "publish")
        else:
            ended[run_id] = what, text, at
    outcome.problems += _errors(begun, ended, windows)
    reporter = JournalReporter()
    stored = set()
    with closing(OtelPipelineStorage(url=database.url, delivery="external")) as storage:
        for execution in storage.get_pipeline_executions():
            run_id = execution.get_run_id()
            stored.add(run_id)
            if run_id not in begun:
                outcome.problems.append(f"nobody began run {run_id}")
            elif _close(storage, execution, reporter):
                outcome.closed += 1
                if not _may_be_open(begun[run_id], ended.get(run_id), killed, windows):
                    outcome.problems.append(f"run {run_id} was left open by nobody who was killed: {ended.get(run_id)}")
    outcome.runs = len(stored)
    missing = [run_id for run_id, (what, _, _) in ended.items() if what == "end" and run_id not in stored]
    if missing:
        outcome.problems.append(f"{len(missing)} runs ended that are not stored: {', '.join(missing[:5])}")


@dataclass(frozen=True)
class _Begun:
    """The beginning of a run."""

    name: str
    pid: int
    at: float
    in_celery: bool


def _may_be_open(
    begun: _Begun,
    ended: tuple[str, str, float] | None,
    killed: dict[int, tuple[str, float]],
    windows: list[tuple[float, float]],
) -> bool:
    """Whether somebody was killed who may have run it, or the database was away meanwhile."""
    if begun.in_celery:
        # Any child may have run any part of it.
        is_left = any("worker" in role and at >= begun.at for role, at in killed.values())
    else:
        is_left = ended is None and begun.pid in killed
    return is_left or _meets(windows, begun.at, float("inf") if ended is None else ended[2])


def _errors(
    begun: dict[str, _Begun], ended: dict[str, tuple[str, str, float]], windows: list[tuple[float, float]]
) -> Iterator[str]:
    """Runs that raised for another reason than their own or a database that was away."""
    for run_id, (what, text, at) in ended.items():
        run = begun[run_id]
        if what == "error" and run.name != "BadlyConfigured" and not _meets(windows, run.at, at):
            yield f"run {run_id} of {run.name} raised {text}"


def _meets(windows: list[tuple[float, float]], began: float, ended: float) -> bool:
    """Whether the database was away in that time; a connection notices it a little later."""
    return any(began <= end + 1 and start <= ended for start, end in windows)


def _close(storage: OtelPipelineStorage, execution: Any, reporter: Any) -> bool:
    """Close what is open of a run; whether anything was."""
    error = PipelineTaskStatus.RUNTIME_ERROR
    was_open = False
    for task_result in storage.get_task_results(execution.get_run_id()):
        if task_result.get_status() is PipelineTaskStatus.RUNNING:
            task_result.report_status_change(reporter, error, "its process is gone")
            was_open = True
    if execution.get_status() in PipelineTaskStatus.non_final_statuses():
        execution.report_status_change(reporter, error, "its process is gone")
        was_open = True
    return was_open


def _drain(outcome: Outcome, storage: SqlPipelineStorage, folder: Path) -> None:
    """Have a sender, which finds what the others left, empty the outbox."""
    began = time.monotonic()
    patience = BROKEN_DRAIN_PATIENCE if outcome.storm.mutation else DRAIN_PATIENCE
    with _deliver(outcome, folder):
        while (status := storage.outbox.status()).waiting + status.held + status.open:
            if time.monotonic() > began + patience:
                outcome.problems.append(f"the outbox was not empty after {patience:g} s: {status}")
                break
            time.sleep(0.1)
        outcome.drain = time.monotonic() - began


@contextmanager
def _deliver(outcome: Outcome, folder: Path) -> Iterator[None]:
    """The command, as a process that was never forked from ours."""
    with (folder / "deliver.words").open("ab") as words:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, outcome.storm.mutation],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(END_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code != 0:
                outcome.problems.append(f"the last sender ended with {code}: {(folder / 'deliver.words').read_text()}")


_COMMAND = """
import sys
from tests.chaos import mutations
from otel_storage.cli import main
mutations.apply(sys.argv[1])
main(["deliver", "--watch"])
"""
