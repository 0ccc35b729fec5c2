"""Column types and values: what is given comes back, or is refused."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, insert, make_url, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import StatementError

from otel_storage.results.exceptions import InvalidInput
from otel_storage.results.status import PipelineTaskStatus
from otel_storage.sql.database.types import LongText, Status, UtcDateTime
from otel_storage.sql.database.values import aware, dump_json, identifier, load_json, record_id, storable

values = Table(
    "tests_values",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime),
    Column("status", Status),
    Column("text", LongText),
    # As our own tables are: the database's default may be another.
    mysql_charset="utf8mb4",
    mariadb_charset="utf8mb4",
)

# An hour inside the limits: times at the very ends have no equivalent in every zone.
EARLIEST, LATEST = datetime(1, 1, 2), datetime(9999, 12, 30)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(EARLIEST, LATEST, timezones=st.one_of(st.just(UTC), offsets, st.timezones()))

# Each example writes and reads a row by the same connection.
per_connection = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)

surrogates = st.characters(categories=["Cs"])
any_text = st.text(st.one_of(st.characters(), surrogates, st.just("\x00")))


@pytest.fixture
def connection(empty_database_url: str) -> Iterator[Connection]:
    """A connection to each engine, with the table of values."""
    engine = create_engine(make_url(empty_database_url))
    with engine.connect() as connection:
        values.create(connection)
        yield connection
        connection.rollback()
    engine.dispose()


def stored(connection: Connection, **row: Any) -> Any:
    """The row as it is read back."""
    id_ = connection.execute(insert(values).values(**row)).inserted_primary_key[0]  # type: ignore[index]
    return connection.execute(select(values).where(values.c.id == id_)).one()


class TestUtcDateTime:
    """Times."""

    @per_connection
    @given(moment=moments)
    @example(moment=datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC))
    @example(moment=datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=timezone(timedelta(hours=1))))
    def test_round_trip(self, connection: Connection, moment: datetime) -> None:
        """Any aware time comes back as the same moment, to the microsecond, in UTC."""
        at = stored(connection, at=moment).at

        # In UTC: Python finds no two times of different zones equal where one of them is in a repeated hour.
        assert at == moment.astimezone(UTC)
        assert at.tzinfo is UTC
        assert at.microsecond == moment.microsecond

    def test_an_hour_that_is_repeated(self, connection: Connection) -> None:
        """Of two times that Python finds equal each is stored as the moment that it is."""
        first, second = (datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin")) for fold in (0, 1))
        assert first == second

        times = [stored(connection, at=moment).at for moment in (first, second)]

        assert times == [datetime(2024, 10, 27, hour, 30, tzinfo=UTC) for hour in (0, 1)]

    def test_order(self, connection: Connection) -> None:
        """Times of different zones compare and sort as moments in the database too."""
        start = datetime(2024, 1, 1, tzinfo=UTC)
        given = [(start + timedelta(hours=h)).astimezone(timezone(timedelta(hours=9 - 5 * h))) for h in range(4)]
        for moment in reversed(given):
            connection.execute(insert(values).values(at=moment))

        ordered = connection.execute(select(values.c.at).order_by(values.c.at)).scalars().all()
        later = connection.execute(select(values.c.at).where(values.c.at > given[1]).order_by(values.c.at)).scalars()

        assert ordered == given
        assert list(later) == given[2:]

    def test_none(self, connection: Connection) -> None:
        """None is NULL."""
        assert stored(connection, at=None).at is None

    @pytest.mark.parametrize("value", [datetime(2024, 1, 1), date(2024, 1, 1), "2024-01-01", 0, 1.5])
    def test_naive_and_others_are_refused(self, connection: Connection, value: Any) -> None:
        """A naive time, and what is no time, is stored nowhere."""
        with pytest.raises(StatementError) as caught:
            stored(connection, at=value)

        assert isinstance(caught.value.orig, InvalidInput)
        assert "a stored time must be a" in str(caught.value.orig)

    def test_types_of_the_engines(self) -> None:
        """Each engine's own type keeps zone and microseconds as well as it can; MariaDB must be told to."""
        shown = [
            UtcDateTime().compile(dialect=dialect)
            for dialect in (sqlite.dialect(), postgresql.dialect(), mysql.dialect())  # type: ignore[no-untyped-call]
        ]

        assert shown == ["DATETIME", "TIMESTAMP WITH TIME ZONE", "DATETIME(6)"]

    @given(moments)
    def test_aware(self, moment: datetime) -> None:
        """The moment stays, the zone becomes UTC."""
        assert aware(moment, "a time").timestamp() == pytest.approx(moment.timestamp(), abs=1e-3)
        assert aware(moment, "a time").tzinfo is UTC

    def test_naive_says_what_to_do(self) -> None:
        """The error names the value, what it is for and how to make an aware one."""
        with pytest.raises(InvalidInput, match=r"started must be an aware datetime: 2024-01-01T00:00:00 .*make_aware"):
            aware(datetime(2024, 1, 1), "started")


@pytest.mark.parametrize("status", [*PipelineTaskStatus, None])
def test_status(connection: Connection, status: PipelineTaskStatus | None) -> None:
    """Every status comes back as itself: the enum's member, not its name."""
    assert stored(connection, status=status).status is status


class TestText:
    """Texts and ids."""

    @per_connection
    @given(text=any_text)
    @example(text="NUL \x00, half a pair \ud800, a whole one \U0001f600")
    def test_storable(self, connection: Connection, text: str) -> None:
        """What is made storable is stored, and comes back as that, on each engine."""
        assert stored(connection, text=storable(text)).text == storable(text)

    @given(any_text)
    def test_storable_changes_no_more_than_it_must(self, text: str) -> None:
        """As many characters remain, and those that all engines hold remain as they are; twice is as once."""
        made = storable(text)

        assert len(made) == len(text)
        for before, after in zip(text, made, strict=True):
            assert before == after or before == "\x00" or 0xD800 <= ord(before) <= 0xDFFF
        assert storable(made) == made

    @pytest.mark.parametrize(("value", "text"), [(None, "None"), (17, "17"), (b"a", "b'a'"), (ValueError("x"), "x")])
    def test_storable_of_other_things(self, value: object, text: str) -> None:
        """What is no string is printed."""
        assert storable(value) == text

    def test_long_text(self, connection: Connection) -> None:
        """A text has no limit."""
        text = "\u20ac" * 4_000_000

        assert stored(connection, text=text).text == text

    @given(
        st.one_of(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1), st.uuids())
    )
    def test_identifier(self, value: str | uuid.UUID) -> None:
        """An id that can be stored is kept as it is; a UUID as its usual text."""
        assert identifier(value, "run_id", length=10_000) == str(value)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("", "run_id must have 1 to 255 characters, not 0"),
            ("x" * 256, "run_id must have 1 to 255 characters, not 256"),
            ("a\x00b", r"run_id 'a\x00b' holds a NUL or an unpaired surrogate"),
            ("a\ud800b", r"run_id 'a\ud800b' holds a NUL or an unpaired surrogate"),
            (None, "run_id must be a string, not a NoneType"),
            (17, "run_id must be a string, not a int"),
            (b"run", "run_id must be a string, not a bytes"),
        ],
    )
    def test_identifier_that_is_none(self, value: object, words: str) -> None:
        """What cannot be kept unchanged is refused, naming what it is for."""
        with pytest.raises(InvalidInput) as caught:
            identifier(value, "run_id")

        assert words in str(caught.value)
        str(caught.value).encode()

    def test_longest_identifier(self) -> None:
        """255 characters will do, whatever their size in bytes."""
        assert identifier("\U0001f600" * 255, "run_id") == "\U0001f600" * 255


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        any_text,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(any_text, inner, max_size=4)),
    max_leaves=15,
)


class TestJson:
    """Values as JSON."""

    @per_connection
    @given(value=json_values)
    @example(value={"nul": "\x00", "half a pair": "\udfff", "big": 10**400, "small": 5e-324, "zero": -0.0})
    def test_round_trip(self, connection: Connection, value: Any) -> None:
        """What JSON can hold comes back through a database as it was, type for type; its text is plain ASCII."""
        text = dump_json(value, "input_data")

        back = load_json(stored(connection, text=text).text)

        assert repr(back) == repr(value)
        assert text is None or text.isascii()

    def test_none_is_null(self) -> None:
        """None is no value, not JSON's null; both come back as None."""
        assert dump_json(None, "input_data") is None
        assert load_json(None) is None
        assert load_json("null") is None

    @pytest.mark.parametrize(
        "value",
        [
            math.nan,
            [math.inf],
            {"a": {"b": -math.inf}},
            {1, 2},
            b"bytes",
            object(),
            {"when": datetime(2024, 1, 1)},
            {(1, 2): "a tuple as a key"},
            {"status": uuid.UUID(int=1)},
        ],
    )
    def test_refused(self, value: Any) -> None:
        """What JSON cannot hold is refused with what can, before anything is stored."""
        with pytest.raises(InvalidInput, match=r"input_data cannot be stored as JSON: .*; use strings, finite numbers"):
            dump_json(value, "input_data")

    def test_value_inside_itself(self) -> None:
        """A list in itself, and one too deep, are refused too."""
        endless: list[Any] = []
        endless.append(endless)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]

        for value in (endless, deep):
            with pytest.raises(InvalidInput, match="cannot be stored as JSON"):
                dump_json(value, "input_data")

    @given(st.floats())
    def test_what_is_stored_is_strict_json(self, number: float) -> None:
        """No number is stored that another program's JSON does not know."""
        if math.isfinite(number):
            text = dump_json([number], "x")
            assert text is not None
            assert json.loads(text, parse_constant=pytest.fail) == [number]
        else:
            with pytest.raises(InvalidInput):
                dump_json([number], "x")


class TestRecordId:
    """Ids of records."""

    @given(st.integers(1, 2**63 - 1))
    def test_round_trip(self, number: int) -> None:
        """A positive 64-bit integer is one, as a number and as digits."""
        assert record_id(number) == record_id(str(number)) == number

    @given(st.one_of(st.integers(max_value=0), st.integers(min_value=2**63)))
    def test_out_of_range(self, number: int) -> None:
        """No record has such an id, and no engine is asked for it."""
        assert record_id(number) is None
        assert record_id(str(number)) is None

    @given(
        st.one_of(st.none(), st.booleans(), st.floats(), st.binary(), st.dates(), st.uuids(), st.lists(st.integers()))
    )
    def test_other_types(self, value: object) -> None:
        """What is neither an integer nor a string is no id; a boolean is no integer."""
        assert record_id(value) is None

    @given(any_text)
    @example("")
    @example(" 1")
    @example("1\n")
    @example("+1")
    @example("-1")
    @example("1_000")
    @example("1.0")
    @example("0x1")
    @example("\u0661")  # a digit of another script
    @example("\u00b2")  # a digit to str.isdigit
    @example("9" * 19)
    @example("9" * 5000)  # int() refuses so many
    def test_any_text(self, text: str) -> None:
        """A string is an id if it is ASCII digits and in range, and nothing it holds raises."""
        found = record_id(text)

        is_decimal = text != "" and all(character in "0123456789" for character in text)
        if is_decimal and len(text) < 20 and 0 < int(text) < 2**63:
            assert found == int(text)
        else:
            assert found is None
