"""SqlPipelineStorage: the records of pipeline runs in SQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, func, or_, select, union_all
from sqlalchemy.exc import DBAPIError

from otel_storage.ports.snapshots import Failure
from otel_storage.ports.traces import is_sampled
from otel_storage.results import clock as clocks
from otel_storage.results.base import PipelineDigest, PipelineStorage
from otel_storage.results.exceptions import ConfigurationError, DatabaseUnavailable
from otel_storage.sql.database import schema
from otel_storage.sql.database.engine import Database, logger
from otel_storage.sql.database.values import MESSAGE_LIMIT, record_id, storable
from otel_storage.sql.outbox.references import SqlOutbox
from otel_storage.sql.records import building
from otel_storage.sql.records.identity_map import IdentityMap
from otel_storage.sql.records.levels import SqlPipelineExecution, SqlPipelineResult, SqlTaskExecution, SqlTaskResult
from otel_storage.sql.records.record import Record
from otel_storage.sql.records.sequences import EmptySequence, RunSequence, SqlSequence
from otel_storage.sql.totals import digest
from otel_storage.sql.totals.counting import SqlTotals
from otel_storage.sql.upkeep.cleanup import in_parts

if TYPE_CHECKING:
    from otel_storage.results.clock import Clock
    from otel_storage.results.protocols import PipelineLike, Reporter, StorageListener
    from otel_storage.results.status import PipelineTaskStatus


_CLOCKS_DIFFER = timedelta(hours=1)
"""How far the clocks of the hosts that build runs may differ."""
_SOME_OLDER = 100
_LEAST_MESSAGE = 100
"""Bytes that :func:`cut_middle` needs for a start, an end and a mark between them."""

_MANY_UNCOUNTED = 1000
"""With fewer uncounted runs than this the digest is quick, and leaves counting to the processes that send spans."""


class SqlPipelineStorage(PipelineStorage):
    """Keeps the records of pipeline runs in SQL, through SQLAlchemy: on SQLite, PostgreSQL or MariaDB.

    The storage connects on first use, and then creates or upgrades the schema of a SQLite database. ``otel-storage db
    upgrade`` does so for a server.

    Args:
        url: Where the database is: a SQLAlchemy URL; else the environment variable ``OTEL_STORAGE_URL``, else a SQLite
            file ``otel_storage.db`` in Django's ``BASE_DIR`` or in the working directory.
        engine: An engine to use instead of a URL. It keeps its own settings, but for the isolation of writes on
            MariaDB, and :meth:`close` leaves it open.
        durable: SQLite only: sync every commit to the disk, so that it survives a power cut and not only a killed
            process.
        message_limit: Bytes of UTF-8 of a status message that are stored; of a longer one its start and its end are.
        clock: Gives the time now, aware and in UTC.

    Raises:
        ConfigurationError: the URL cannot be parsed, or its driver is not installed.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        engine: Engine | None = None,
        durable: bool = False,
        message_limit: int = MESSAGE_LIMIT,
        clock: Clock = clocks.now,
    ) -> None:
        if type(message_limit) is not int or message_limit < _LEAST_MESSAGE:
            raise ConfigurationError(f"message_limit must be a number of bytes, at least {_LEAST_MESSAGE}")
        self.database = Database(url, engine=engine, durable=durable)
        self.clock = clock
        self.message_limit = message_limit
        self.listener: StorageListener | None = None
        """The telemetry that listens to transitions; None without."""
        self.outbox = SqlOutbox(self.database, clock)
        self.totals = SqlTotals(self.database, clock, self.outbox)

    @property
    def url(self) -> str:
        """The database's URL, without its password."""
        return self.database.url

    def upgrade(self) -> None:
        """Create the database's schema, or bring it up to this version.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
            SchemaMismatch: the schema is newer than this version of the package.
        """
        self.database.upgrade()

    def current(self) -> str | None:
        """The version of the database's schema; None if the database has none."""
        return self.database.current()

    def close(self) -> None:
        """Close the connections; the storage opens new ones if it is used again."""
        self.database.dispose()

    def build_pipeline_execution(
        self,
        pipeline: PipelineLike,
        run_id: str,
        runner: object,
        reporter: Reporter | None,
        input_data: Any,
        build_all: bool | None = True,
    ) -> SqlPipelineExecution:
        """Store a new run in one transaction of bulk inserts; see the contract."""
        plan = building.plan(pipeline, run_id, runner, reporter, input_data, bool(build_all), self.clock())
        run_id, pipeline_id = plan.execution["run_id"], plan.execution["pipeline_id"]
        trace = self.listener.run_building(run_id, pipeline_id) if self.listener is not None else None
        is_traced = is_sampled(trace)
        rows = building.store(self.database, plan, None if trace is None else json.dumps(trace), is_traced=is_traced)
        if self.listener is not None and trace is not None:
            self.listener.run_built(run_id, rows.executions[0]["id"], trace)
            if is_traced and not build_all:
                self.listener.committed()
        return building.announce(self._records(), rows, reporter)

    def get_pipeline_digest(self) -> PipelineDigest:
        """The figures of each pipeline that has a run."""
        figures, uncounted = digest.read(self.database)
        if uncounted >= _MANY_UNCOUNTED:
            self._count_some()
        return figures

    def get_pipeline_executions(self, pipeline_id: str | None = None) -> SqlSequence[SqlPipelineExecution]:
        """All executions, newest first; only those of one pipeline if ``pipeline_id`` is given."""
        if not pipeline_id:
            return RunSequence(self._records(), SqlPipelineExecution)
        if not _is_storable(pipeline_id):
            return EmptySequence(self._records(), SqlPipelineExecution)
        return RunSequence(self._records(), SqlPipelineExecution, str(pipeline_id))

    def list_runs(
        self,
        *,
        pipeline_id: str | None = None,
        statuses: Iterable[PipelineTaskStatus] = (),
        since: datetime | None = None,
        before_id: int | None = None,
        limit: int = 20,
    ) -> list[SqlPipelineExecution]:
        """One page of executions, newest first.

        Args:
            pipeline_id: Only executions of this pipeline.
            statuses: Only executions in one of these statuses; empty for any status.
            since: Only executions built at this time or later; aware.
            before_id: Only executions older than the one with this id, the last of the previous page.
            limit: The length of the page, at most.
        """
        table = schema.pipeline_execution
        conditions = []
        if pipeline_id is not None:
            conditions.append(table.c.pipeline_id == pipeline_id)
        if since is not None:
            # Do not search older runs. Ids grow with time, except that clocks differ and transactions take long. So
            # start at the least id of several runs that are surely older.
            surely_older = since - min(_CLOCKS_DIFFER, since - datetime.min.replace(tzinfo=UTC))
            older = select(table.c.id).where(table.c.created < surely_older)
            some = older.order_by(table.c.created.desc()).limit(_SOME_OLDER).subquery()
            least = select(func.min(some.c.id)).scalar_subquery()
            conditions += [table.c.created >= since, table.c.id > func.coalesce(least, 0)]
        if before_id is not None:
            conditions.append(table.c.id < before_id)
        if wanted := list(dict.fromkeys(statuses)):
            # Select the newest of each status from an index; no index has the newest of several statuses together.
            newest = [
                select(table.c.id).where(table.c.status == status, *conditions).order_by(table.c.id.desc()).limit(limit)
                for status in wanted
            ]
            found = union_all(*(select(each.subquery().c.id) for each in newest)).subquery()
            conditions = [table.c.id.in_(select(found.c.id))]
        return self._records().select(SqlPipelineExecution, conditions, limit=limit, newest_first=True)

    def runs_starting(self, starts: Iterable[str], limit: int) -> list[SqlPipelineExecution]:
        """The executions whose run id starts with one of the texts, newest first.

        Args:
            starts: The texts, as they are: no character stands for others. One that is empty starts nothing.
            limit: How many at most: of more, those whose ids come first in the index.
        """
        column = schema.pipeline_execution.c.run_id
        wanted = [start for start in starts if _is_storable(start)]
        if not wanted:
            return []
        begins = or_(*(self.database.policy.begins_with(column, start) for start in wanted))
        # In the order of the index, and of nothing but the index: servers would else read the table from its end.
        found = select(column).where(begins).order_by(column).limit(limit).subquery()
        return self._records().select(SqlPipelineExecution, [column.in_(select(found.c.run_id))], newest_first=True)

    def get_pipeline_execution(self, run_id: Any) -> SqlPipelineExecution | None:
        """The execution of the run; None if there is none."""
        if run_id is None or not _is_storable(run_id):
            return None
        return self._records().get(SqlPipelineExecution, "run_id", str(run_id))

    def get_pipeline_results(self, run_id: str | None = None) -> SqlSequence[SqlPipelineResult]:
        """All pipeline results, or those of one run."""
        return self._sequence(SqlPipelineResult, run_id)

    def get_pipeline_result(self, _id: Any) -> SqlPipelineResult | None:
        """The pipeline result of that id; None if there is none."""
        return self._by_id(SqlPipelineResult, _id)

    def get_task_executions(
        self, run_id: str | None = None, pipeline_result_id: Any = None
    ) -> SqlSequence[SqlTaskExecution]:
        """All task executions that meet every condition given."""
        return self._sequence(SqlTaskExecution, run_id, pipeline_result_id=pipeline_result_id)

    def get_task_execution(self, _id: Any) -> SqlTaskExecution | None:
        """The task execution of that id; None if there is none."""
        return self._by_id(SqlTaskExecution, _id)

    def get_task_results(
        self, run_id: str | None = None, pipeline_result_id: Any = None, task_execution_id: Any = None
    ) -> SqlSequence[SqlTaskResult]:
        """All task results that meet every condition given."""
        return self._sequence(
            SqlTaskResult, run_id, pipeline_result_id=pipeline_result_id, task_execution_id=task_execution_id
        )

    def get_task_result(self, _id: Any) -> SqlTaskResult | None:
        """The task result of that id; None if there is none."""
        return self._by_id(SqlTaskResult, _id)

    def get_failures(self, run_id: str) -> dict[int, Failure]:
        """The exceptions that the run's task results failed with, by the id of the task result."""
        table = schema.failure
        columns = (table.c.task_result_id, table.c.type, table.c.message, table.c.stacktrace)
        executions = select(schema.pipeline_execution.c.id).where(schema.pipeline_execution.c.run_id == run_id)
        statement = select(*columns).where(table.c.execution_id == executions.scalar_subquery())
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        return {id_: Failure(type=type_, message=message, stacktrace=stack) for id_, type_, message, stack in rows}

    def cleanup(self, before: datetime | None = None) -> Sequence[str]:
        """Remove the runs built before a time, or all; see the contract. Unsent spans are lost, and counted."""
        limit = None if before is None else before.astimezone(UTC)
        removed: list[str] = []
        unsent = 0
        for run_ids, references in in_parts(self.database, self.clock, limit):
            removed += run_ids
            unsent += references
        if unsent:
            logger.warning("cleanup removed %d runs, and with them %d references to unsent spans", len(removed), unsent)
        return removed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _count_some(self) -> None:
        """Count a few runs for a quicker next digest; no sender seems to count."""
        try:
            self.totals.count(seconds=0)
        except (DatabaseUnavailable, DBAPIError) as error:
            # The database may be a read-only copy.
            logger.debug("finished runs cannot be counted: %s", type(error).__name__)

    def _records(self) -> IdentityMap:
        return IdentityMap(self.database, self.clock, self.listener, self.message_limit)

    def _by_id(self, kind: type[Record], _id: Any) -> Record | None:
        id_ = record_id(_id)
        return None if id_ is None else self._records().get(kind, "id", id_)

    def _sequence(self, kind: type[Record], run_id: Any, **parent_ids: Any) -> SqlSequence[Record]:
        """The records under the given run and parents; None, or the empty string of a form, is no condition."""
        table = kind.table
        conditions = []
        if run_id:
            if not _is_storable(run_id):
                return EmptySequence(self._records(), kind)
            executions = select(schema.pipeline_execution.c.id).where(schema.pipeline_execution.c.run_id == str(run_id))
            conditions.append(table.c.execution_id == executions.scalar_subquery())
        for column, value in parent_ids.items():
            if value is None or value == "":
                continue
            id_ = record_id(value)
            if id_ is None:
                return EmptySequence(self._records(), kind)
            if column in table.c:
                conditions.append(table.c[column] == id_)
            else:
                task_executions = select(schema.task_execution.c.id).where(schema.task_execution.c[column] == id_)
                conditions.append(table.c.task_execution_id.in_(task_executions))
        return SqlSequence(self._records(), kind, conditions)


def _is_storable(given: object) -> bool:
    """Whether a record can have this id: servers fail on a look-up of a text that they cannot store."""
    text = str(given)
    return 0 < len(text) <= 255 and text == storable(text)
