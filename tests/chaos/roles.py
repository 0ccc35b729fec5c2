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
from typing import TYPE_CHECKING, Any

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

    runs, reporter = Journal(folder, RUNS), reporter_of(folder)
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


def operate(folder: Path, seed: str) -> None:
    """Report changes of runs that others run: cancel them, fail them, and say again that they run."""
    dice, is_told = _begin(folder, "operator", seed)
    from otel_storage.results.status import PipelineTaskStatus as Status

    reporter = reporter_of(folder)
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


def reporter_of(folder: Path) -> Any:
    """A reporter whose reports survive the process; its class is made once Django is set up."""
    from pipelines.reporters.base import PipelineReporter

    class JournalReporter(PipelineReporter):
        """Writes down every report of a change of state."""

        def __init__(self) -> None:
            self._journal = Journal(folder, REPORTS)

        def report_context_object(self, context_object: Any, status: Any, message: str) -> None:
            """Write it down; that a record waits for its start is none."""
            if status.value != "PENDING":
                record = (context_object.content_type_name, context_object.get_id())
                self._journal.write([*record, status.value, message, os.getpid()])

    return JournalReporter()


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
