"""What the processes of the storm do until they are told to stop, or killed."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import sys
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.journal import Journal

if TYPE_CHECKING:
    from otel_storage.composite import OtelPipelineStorage

RUNS = "runs"
REPORTS = "reports"


def write(folder: Path, seed: str) -> None:
    """Run pipelines, one after the other; a thread sends their spans.

    Half of them go on in a child, as a web server's or a pool's processes do that have loaded everything before they
    fork: the storage is there, with its connections and its thread, and another child follows each that is killed.
    """
    dice, is_told = _begin(folder, "writer", seed)
    # Django is set up where the processes of the storm are forked.
    from pipelines.results.helpers import get_pipeline_results_storage
    from pipelines.runners.eager import Runner

    from tests.chaos.pipelines import PIPELINES
    from tests.chaos.reporting import JournalReporter

    runs, reporter = Journal(folder, RUNS), JournalReporter()
    is_to_fork = dice.random() < 0.5
    while not is_told:
        name = dice.choice(sorted(PIPELINES))
        run_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        input_data = {"number": dice.choice(["1", "one"])} if name == "Validated" else {}
        runs.write(["begin", run_id, name, os.getpid(), time.time()])
        try:
            PIPELINES[name]().start(run_id=run_id, input_data=input_data, runner=Runner(), reporter=reporter)
        except Exception as error:  # noqa: BLE001 - the host raises a bare Exception for a bad pipeline
            runs.write(["error", run_id, f"{type(error).__name__}: {error}", os.getpid(), time.time()])
            time.sleep(0.05)
        else:
            runs.write(["end", run_id, "", os.getpid(), time.time()])
        if is_to_fork:
            is_to_fork = False
            dice.seed(f"{seed}/{_go_on_in_child(is_told)}")
    if dice.random() < 0.5:
        # Half of them leave as children of a pool do, by os._exit.
        get_pipeline_results_storage().close()


def send(folder: Path, seed: str) -> None:
    """Deliver as the command does, which this is."""
    _begin(folder, "sender", seed)
    from otel_storage.cli import main

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main(["deliver", "--watch"])


def publish(folder: Path, seed: str) -> None:
    """Have Celery run pipelines, a few at a time, as a web process does."""
    dice, is_told = _begin(folder, "publisher", seed)
    from pipelines.runners.celery.tasks import run_pipeline

    from tests.chaos.broker import Broker
    from tests.chaos.pipelines import PIPELINES

    runs, broker = Journal(folder, RUNS), Broker(os.environ["CHAOS_REDIS"], os.environ["CHAOS_PREFIX"])
    while not is_told:
        time.sleep(dice.uniform(0.02, 0.1))
        if broker.waiting() < _MOST_WAITING:
            name = dice.choice(sorted(PIPELINES))
            run_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
            runs.write(["publish", run_id, name, os.getpid(), time.time()])
            run_pipeline.delay(pipeline_id=f"chaos.{name}", input_data={}, run_id=run_id)


_MOST_WAITING = 8


def work(folder: Path, seed: str) -> None:
    """Run what Celery is given, as its worker, in children of a pool."""
    _begin(folder, "worker", seed)
    from tests.chaos.celery_app import app

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options = ["--pool", "prefork", "--concurrency", "2", "--loglevel", "CRITICAL"]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", *options, "--hostname", f"chaos{os.getpid()}@%h"])


def operate(folder: Path, seed: str) -> None:
    """Report changes of runs that others run: cancel them, fail them, and say again that they run."""
    dice, is_told = _begin(folder, "operator", seed)
    from otel_storage.results.status import PipelineTaskStatus as Status
    from tests.chaos.reporting import JournalReporter

    reporter = JournalReporter()
    storage = _storage()
    changes = [(Status.CANCELLED, "cancelled by the operator"), (Status.RUNTIME_ERROR, "failed by the operator")]
    changes.append((Status.RUNNING, "said again by the operator"))
    while not is_told:
        time.sleep(dice.uniform(0, 0.1))
        try:
            for execution in storage.records.list_runs(statuses=[Status.RUNNING, Status.PENDING], limit=3):
                task_results = list(storage.get_task_results(execution.get_run_id()))
                if task_results:
                    dice.choice(task_results).report_status_change(reporter, *dice.choice(changes))
        except Exception as error:
            if not _is_of_the_database(error):
                raise


def words_of(folder: Path, role: str, pid: int) -> Path:
    """The file with what a process said, and with what its threads did when it got a SIGUSR1."""
    return folder / f"{role}.{pid}.words"


def _begin(folder: Path, role: str, seed: str) -> tuple[random.Random, list[int]]:
    """Have the process's words in a file, and its SIGTERM kept in the list."""
    _die_with_parent()
    assert "tests.chaos.warm" in sys.modules, "this process was not forked from the server that has all loaded"
    words = os.open(words_of(folder, role, os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(words, stream)
    faulthandler.register(signal.SIGUSR1)
    told: list[int] = []
    _listen(told)
    random.seed(seed)
    return random.Random(seed), told


def _go_on_in_child(told: list[int]) -> int:
    """Return in a child, with its number; the process itself has another follow each that is killed, and ends with it.

    What the thread of the process itself holds and sends goes on beside it.
    """
    number = 0
    while True:
        number += 1
        pid = os.fork()
        if pid == 0:
            _die_with_parent()
            _listen(told)
            return number
        signal.signal(signal.SIGTERM, partial(_pass_on, told, pid))
        if told:
            _pass_on(told, pid, signal.SIGTERM, None)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            os._exit(code)


def _pass_on(told: list[int], pid: int, number: int, _frame: object) -> None:
    told.append(number)
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _listen(told: list[int]) -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))


def _die_with_parent() -> None:
    """Leave nothing behind when those who look after this process are gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1


def _storage() -> OtelPipelineStorage:
    from pipelines.results.helpers import get_pipeline_results_storage

    storage: OtelPipelineStorage = get_pipeline_results_storage()
    return storage


def _is_of_the_database(error: Exception) -> bool:
    from sqlalchemy.exc import SQLAlchemyError

    from otel_storage.results.exceptions import DatabaseUnavailable

    return isinstance(error, (SQLAlchemyError, DatabaseUnavailable))
