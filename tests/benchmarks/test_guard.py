"""The guard against a slow-down: what is measured now, beside what was recorded; never a time."""

from __future__ import annotations

import pytest

from tests import services
from tests.benchmarks import guard
from tests.benchmarks.running import WITHOUT_DATABASE, benchmarks

pytest.importorskip("pipelines", reason="django-pipelines is not installed: pip install '.[django]'")


@pytest.mark.slow
@pytest.mark.benchmark
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_nothing_is_slower_than_recorded(engine: str) -> None:
    """No ratio is half as good as recorded, and no count is greater, in three attempts.

    After a change that is meant to cost: ``python -m tests.benchmarks --record``, and say in the commit why.
    """
    if engine == "sqlite":
        assert guard.check(benchmarks(), [None]) == []
    else:
        url = services.postgresql_server().render_as_string(hide_password=False)
        assert guard.check([name for name in benchmarks() if name not in WITHOUT_DATABASE], [url]) == []
