"""Secrets are masked, texts are cut in bytes, and both take time in proportion to the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_storage.privacy import masking as privacy
from otel_storage.privacy.masking import MASK, as_json, cut, cut_middle, scrub, scrub_and_cut, scrub_and_cut_middle

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+IBAAKCAQEA\n7Zk/==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("postgresql://ann:hunter2@db/shop", "postgresql://ann:***@db/shop"),
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("amqp://a:pw1@h1,amqp://b:pw2@h2", "amqp://a:***@h1,amqp://b:***@h2"),
        ("postgresql+psycopg://u:p@ss/w:rd@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql+psycopg://u:p'w@h/d", "postgresql+psycopg://u:***@h/d"),
        ('create_engine("mysql://u:pw@h")', 'create_engine("mysql://u:***@h")'),
        ("https://ghs0123456789abcdef@github.com/x", "https://***@github.com/x"),
        ("host=db password=hunter2 user=ann", "host=db password=*** user=ann"),
        ("DB_PASSWORD='hunter2 and 3'", "DB_PASSWORD='***'"),
        ('{"api_key": "a\\"b c", "x": 1}', '{"api_key": "***", "x": 1}'),
        ('"{\\"client_secret\\": \\"a b\\"}"', '"{\\"client_secret\\": \\"***\\"}"'),
        ("{'accessToken': b'abc'}", "{'accessToken': b'***'}"),
        ("[('session-id', 'abc')]", "[('session-id', '***')]"),
        ('config["secret"] = "x y"', 'config["secret"] = "***"'),
        ('secret: str = "x"', 'secret: ***"'),
        ('token = """a\nb""" + x', 'token = """***""" + x'),
        ('credentials: {"user": "ann", "pin": [1, "}"]} end', "credentials: *** end"),
        ("connect(auth=('ann', 'x'), y=1)", "connect(auth=***, y=1)"),
        ("Authorization: Digest a=b, c=d\nHost: x", "Authorization: ***\nHost: x"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ("passwd : hunter2, next", "passwd : ***, next"),
        ("sent Bearer abcdefgh to it", "sent Bearer *** to it"),
        ("sent Basic dXNlcjpwYXNz to it", "sent Basic *** to it"),
        (f"id {JWT}.", "id ***"),
        ("key AKIAIOSFODNN7EXAMPLE!", "key ***!"),
        ("ghp_0123456789abcdefABCD", "***"),
        (f"a {KEY} b", "a -----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY----- b"),
        (KEY[:60], "-----BEGIN RSA PRIVATE KEY-----***"),
        (f"[{KEY[40:]}", "[***-----END RSA PRIVATE KEY-----"),
        (repr(KEY), "'-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----'"),
        ("card 4111 1111 1111 1111 12/25", "card *** 12/25"),
        ("4111-1111-1111-1111", "***"),
        ("378282246310005", "***"),
        ("5 5500000000000004 7", "5 *** 7"),
        ("'6304000000000000000'", "'***'"),
    ],
)
def test_secrets_are_masked(text: str, scrubbed: str) -> None:
    """What is around them stays as it is."""
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "",
        'password authentication failed for user "ann"',
        "http://localhost:8000/users/a@b",
        "git@github.com:ann/x and https://medium.com/@ann",
        "order 4111111111111112 of 2024-05-01 12:00:00.123456",
        "41111111111111111111111111111111",
        "1234567890123452",
        "2 validation errors for Login: password: missing; auth.token: string_type",
        "Basic authentication is off",
        "the author: Ann",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        '  File "/app/tasks.py", line 5, in run',
    ],
)
def test_other_text_is_unchanged(text: str) -> None:
    """Nothing is masked that is no secret."""
    assert scrub(text) == text


@given(
    st.text(alphabet="0123456789", min_size=12, max_size=18), st.sampled_from("3456"), st.sampled_from(["", " ", "-"])
)
def test_every_card_number_is_masked(digits: str, first: str, separator: str) -> None:
    """Any length from 13 to 19, in groups of four or none, whatever stands around it."""
    number = first + digits[1:]
    check = next(str(digit) for digit in range(10) if _luhn(number + str(digit)))
    card = separator.join((number + check)[start : start + 4] for start in range(0, len(number) + 1, 4))
    for text in (card, f"a{card}b", f"'{card}'", f"12/{card}/34"):
        assert scrub(text) == text.replace(card, MASK)


_ALIKE = {"i": "iI\u0130\u0131", "k": "kK\u212a", "s": "sS\u017f"}
_NAMES = (
    *("password", "passwd", "passphrase", "passcode", "pwd", "secret", "token", "api_key", "access key", "private-key"),
    *("authorization", "authorisation", "credential", "cookie", "session id", "sessionid"),
    *("dsn", "auth", "pass", "jwt", "cvv", "cvc", "ssn", "bearer"),
)


@given(st.sampled_from(_NAMES), st.data())
def test_what_is_looked_for_first_is_in_every_name(name: str, data: st.DataObject) -> None:
    """However a name is spelt that is known to sound secret, its value is found."""
    spelt = "".join(data.draw(st.sampled_from(_ALIKE.get(letter, letter + letter.upper()))) for letter in name)
    if name == "bearer":
        assert bool(privacy._BEARER.search(f"{spelt} abcdefgh")) == ("abcdefgh" not in scrub(f"{spelt} abcdefgh"))
    elif privacy._PAIR.search(f"{spelt}=abcdefgh"):
        assert scrub(f"{spelt}=abcdefgh") == f"{spelt}={MASK}"


@pytest.mark.parametrize(
    "token",
    [
        *(f"{key}IOSFODNN7EXAMPLE" for key in privacy._AWS_KEYS),
        *(
            f"{prefix}0123456789abcdefABCD"
            for prefix in ("gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-")
        ),
        *(f"xox{kind}-0123456789abcdefABCD" for kind in "abeoprs"),
        *(f"{kind}k_{mode}_0123456789abcdefABCD" for kind in "rs" for mode in ("live", "test")),
        "AIza0123456789abcdefABCD",
        JWT,
    ],
)
def test_every_kind_of_token_is_masked(token: str) -> None:
    """Each of the well-known prefixes is looked for."""
    assert scrub(f"sent {token}!") == f"sent {MASK}!"


def _luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        total += sum(divmod(int(digit) * (1 + place % 2), 10))
    return total % 10 == 0


@given(st.text())
@example(KEY[:50])
@example(KEY[40:])
@example(f"token: {JWT} password='a' postgres://a:b@c")
def test_scrubbing_twice_changes_nothing(text: str) -> None:
    """What is masked is not taken for another secret."""
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "unit",
    [
        "a", "1", "4 ", "41", "://", "://a:b@", "token", "token=", 'token="', "token={", "token=['", "token: x = ",
        "auth=", "eyJ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "Bearer ", "Basic a", '"', '\\"',
        'token=\\"', "4111 1111 1111 111", " ", "\n",
    ],
)  # fmt: skip
def test_hostile_text_is_scrubbed_in_linear_time(unit: str) -> None:
    """A search that starts over and over would not end before the timeout."""
    assert len(scrub(unit * (1_000_000 // len(unit)))) <= 2_000_000


@pytest.mark.parametrize("cutting", [scrub_and_cut, scrub_and_cut_middle])
@pytest.mark.parametrize("filler", ["x", "word ", "line\n", "é", "password=s3cr3t "])
def test_ten_megabytes_are_cut_to_size(cutting: type, filler: str) -> None:
    """Of a huge text no more is scrubbed than is needed, and the end stays where it must."""
    text = filler * (10_000_000 // len(filler)) + "the end"
    short = cutting(text, 2000)
    assert len(short.encode()) <= 2000
    assert "s3cr3t" not in short
    assert short.endswith("the end" if cutting is scrub_and_cut_middle else "…")


@pytest.mark.parametrize("length", [3_000, 200_000])
@pytest.mark.parametrize("secret", ["postgresql://ann:s3cr3ts3cr3t@db", "password='s3cr3t s3cr3t'", f"s3cr3t={JWT}"])
def test_no_part_of_a_secret_is_left_at_a_cut(length: int, secret: str) -> None:
    """Wherever a text is cut, a secret there is masked before, or dropped."""
    for shift in range(len(secret) + 2):
        unit = f" {secret}"
        text = "-" * shift + unit * (length // len(unit))
        for short in (scrub_and_cut(text, 300), scrub_and_cut_middle(text, 300)):
            assert "s3cr3ts" not in short.replace("s3cr3t=", "")
            assert "cr3t'" not in short
            assert JWT[-10:] not in short


@given(st.text(max_size=60), st.integers(min_value=0, max_value=80))
@example("é" * 10, 7)
@example("\udcff" * 5, 3)
def test_cut_fits_and_breaks_no_character(text: str, limit: int) -> None:
    """At most the limit in bytes, always valid UTF-8, and the text itself where it fits."""
    whole = text.encode("utf-8", "replace").decode()
    for short in (cut(text, limit), cut_middle(text, limit)):
        assert len(short.encode()) <= limit
        assert (short == whole) == (len(whole.encode()) <= limit)
    if cut(text, limit) != whole and limit >= 3:
        assert cut(text, limit).endswith("…")
        assert whole.startswith(cut(text, limit)[:-1])


def test_cut_middle_keeps_both_ends() -> None:
    """The end is given twice the room of the start."""
    short = cut_middle("".join(f"{number} " for number in range(1000)), 200)
    assert short.startswith("0 1 2 ")
    assert short.endswith("998 999 ")
    assert "\n… cut …\n" in short


def test_json_is_masked_by_structure() -> None:
    """Under a name that sounds secret nothing is shown, whatever it is; secrets in texts, names, numbers neither."""
    value = {
        "token": {"a": [1, 2]},
        "password": 5,
        "api_key": None,
        "nested": [{"dsn": "x"}, "postgres://u:pw@h", 4111111111111111, 1714564800123456789],
        "4111 1111 1111 1111": True,
        "b": "é",
        "a": 1.5,
    }
    assert json.loads(as_json(value)) == {
        "token": MASK,
        "password": MASK,
        "api_key": None,
        "nested": [{"dsn": MASK}, "postgres://u:***@h", MASK, 1714564800123456789],
        MASK: True,
        "b": "é",
        "a": 1.5,
    }
    assert as_json({"b": "é", "a": 1}) == '{"a": 1, "b": "é"}'


def test_json_that_cannot_be_written_is_withheld() -> None:
    """Data nested without end raises nothing."""
    endless: list[object] = []
    endless.append(endless)
    assert as_json(endless).startswith("withheld")
