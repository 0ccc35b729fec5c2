"""The storm: processes, a plan of what goes wrong, and the calm in which all must be as it should."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
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
    mutation: str = ""
    """The mechanism that is broken on purpose, if any."""


@dataclass
class Outcome:
    """What became of it."""

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
    """What is wrong; empty if nothing is."""


def blow(storm: Storm, database: ChaosDatabase, folder: Path) -> Outcome:
    """Run the storm on an empty database, and hold what came of it against the database."""
    with closing(SqlPipelineStorage(database.url)) as storage:
        storage.upgrade()
        outcome = Outcome(storm, storage.database.dialect)
        context = multiprocessing.get_context("forkserver")
        endpoint = Endpoint(context, folder, storm.seed, TIMEOUT)
        _prepare(context, storm, database, endpoint)
        fleet = Fleet(context, folder, storm.seed)
        windows: list[tuple[float, float]] = []
        try:
            endpoint.start()
            _rage(storm, database, endpoint, fleet, windows)
            _close_runs(outcome, database, folder, fleet.killed, windows)
            _drain(outcome, storage, folder)
        finally:
            fleet.end()
            endpoint.end()
        outcome.kills = {**fleet.kills, "receiver": endpoint.kills}
        outcome.faults = faults_of(folder)
        outcome.outages = endpoint.outages
        outcome.restarts = len(windows)
        outcome.findings = oracles.judge(storage, folder, QUIET)
        outcome.problems += [*fleet.problems, *outcome.findings.problems()]
    return outcome


def _prepare(context: ForkServerContext, storm: Storm, database: ChaosDatabase, endpoint: Endpoint) -> None:
    """Have the server of forks load what the processes need, with the settings that they have in common."""
    arguments = {"url": database.url, "settle_quiet": QUIET, "lease": LEASE}
    os.environ.update(
        CHAOS_STORAGE=json.dumps(arguments),
        CHAOS_MUTATION=storm.mutation,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.url,
        OTEL_EXPORTER_OTLP_TIMEOUT=f"{TIMEOUT:g}",
        PIPELINES_PIPELINES_RESULTS_STORAGE=json.dumps(["otel_storage.OtelPipelineStorage", arguments]),
    )
    context.set_forkserver_preload(["tests.chaos.warm"])


def _rage(
    storm: Storm, database: ChaosDatabase, endpoint: Endpoint, fleet: Fleet, windows: list[tuple[float, float]]
) -> None:
    """Start the processes, and do to them what the plan says; at the end all is well again, and nobody writes."""
    fleet.add("writer", roles.write, storm.writers)
    fleet.add("sender", roles.send, storm.senders)
    fleet.add("operator", roles.operate, 1)
    plan = make_plan(
        storm.seed,
        storm.seconds,
        kills=storm.kills,
        lease=LEASE,
        restarts_database=database.can_restart,
        has_celery=False,
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
    endpoint.behave()
    for role in ("writer", "operator", "sender"):
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
    outcome: Outcome, database: ChaosDatabase, folder: Path, killed: set[int], windows: list[tuple[float, float]]
) -> None:
    """Close the runs that were left open, as somebody does who knows that their processes are gone.

    Each must have been left by a writer that was killed in it, or that lost its database.
    """
    begun: dict[str, tuple[str, int, float]] = {}
    ended: dict[str, tuple[str, str, float]] = {}
    for what, run_id, text, pid, at in journal.read(folder, roles.RUNS):
        if what == "begin":
            begun[run_id] = text, pid, at
        else:
            ended[run_id] = what, text, at
    outcome.problems += _errors(begun, ended, windows)
    reporter = roles.reporter_of(folder)
    with closing(OtelPipelineStorage(url=database.url, delivery="external")) as storage:
        executions = list(storage.get_pipeline_executions())
        outcome.runs = len(executions)
        for execution in executions:
            run_id = execution.get_run_id()
            if run_id not in begun:
                outcome.problems.append(f"nobody began run {run_id}")
            elif _close(storage, execution, reporter):
                outcome.closed += 1
                _, pid, at = begun[run_id]
                end = ended[run_id][2] if run_id in ended else float("inf")
                if not ((run_id not in ended and pid in killed) or _meets(windows, at, end)):
                    outcome.problems.append(f"run {run_id} was left open by nobody who was killed: {ended.get(run_id)}")
        built = {execution.get_run_id() for execution in executions}
    missing = [run_id for run_id, (what, _, _) in ended.items() if what == "end" and run_id not in built]
    if missing:
        outcome.problems.append(f"{len(missing)} runs ended that are not stored: {', '.join(missing[:5])}")


def _errors(
    begun: dict[str, tuple[str, int, float]],
    ended: dict[str, tuple[str, str, float]],
    windows: list[tuple[float, float]],
) -> Iterator[str]:
    """Runs that raised for another reason than their own or a database that was away."""
    for run_id, (what, text, at) in ended.items():
        name, _, began = begun[run_id]
        if what == "error" and name != "BadlyConfigured" and not _meets(windows, began, at):
            yield f"run {run_id} of {name} raised {text}"


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
