"""Lets a repeated problem be logged once."""

from __future__ import annotations

MOST_CAUSES = 100
"""The most causes that are logged until all is well again, so that texts which always differ do not fill a log."""


class Complaints:
    """Remembers which causes were logged, so that each is logged once until all is well again.

    Args:
        most: The most causes that are logged until then.
    """

    def __init__(self, most: int = MOST_CAUSES) -> None:
        self._most = most
        self._said: set[str] = set()

    def is_new(self, cause: str) -> bool:
        """Whether the caller should log the cause; remembers it as logged."""
        if cause in self._said or len(self._said) >= self._most:
            return False
        self._said.add(cause)
        return True

    def end(self) -> bool:
        """Report that all is well, so that every cause is new again.

        Returns:
            Whether any cause was logged before.
        """
        had_any = bool(self._said)
        self._said.clear()
        return had_any
