"""Chooses the policy of a database, and makes engines."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from otel_storage.results.exceptions import ConfigurationError
from otel_storage.results.extras import to_install
from otel_storage.sql.database.mariadb import MARIADB
from otel_storage.sql.database.policy import Policy
from otel_storage.sql.database.postgresql import POSTGRESQL
from otel_storage.sql.database.sqlite import SQLITE
from otel_storage.sql.database.urls import display_url

_POLICIES: dict[str, Policy] = {name: policy for policy in (SQLITE, POSTGRESQL, MARIADB) for name in policy.names}
_OTHER = Policy()
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}


def policy_of(database: Connection | Engine | Dialect) -> Policy:
    """The policy of the dialect; plain SQL for a dialect other than the three."""
    dialect = database if isinstance(database, Dialect) else database.dialect
    return _POLICIES.get(dialect.name, _OTHER)


def make_engine(url: URL, durable: bool, patience: float | None) -> Engine:
    """An engine for the URL; see :class:`.engine.Database` for the arguments.

    Raises:
        ConfigurationError: its driver is missing, or the URL cannot be used.
    """
    policy = _POLICIES.get(url.get_backend_name(), _OTHER)
    # Keep parameters out of errors and logs: they contain input data.
    options: dict[str, Any] = {"hide_parameters": True, **policy.engine_options(url, patience)}
    try:
        engine = create_engine(url, **options)
    except NoSuchModuleError:
        raise ConfigurationError(
            f"there is no database dialect {url.drivername!r}; use sqlite, postgresql+psycopg or mariadb+pymysql"
        ) from None
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        mend = to_install(extra) if extra else f"install the module {error.name!r}"
        raise ConfigurationError(f"the driver of {url.drivername} is not installed; {mend}") from error
    except (ArgumentError, ValueError, TypeError):
        # SQLAlchemy's error prints the URL, with any secret in its query.
        raise ConfigurationError(
            f"the database URL {display_url(url)} cannot be used; check its parts against "
            "sqlite:///runs.db (three slashes), postgresql+psycopg://user:password@host:5432/name or "
            "mariadb+pymysql://user:password@host:3306/name"
        ) from None
    policy.configure(engine, durable=durable, patience=patience)
    return engine
