"""What goes wrong again and again is said once."""

from __future__ import annotations

MOST_CAUSES = 100
"""How many causes are said until they are over: a text that is never the same twice must not fill a log."""


class Complaints:
    """Knows which causes were said, so that each is said once until it is over.

    Args:
        most: How many causes are said at most until then.
    """

    def __init__(self, most: int = MOST_CAUSES) -> None:
        self._most = most
        self._said: set[str] = set()

    def is_new(self, cause: str) -> bool:
        """Whether the caller is to say the cause; counts as said from then on."""
        if cause in self._said or len(self._said) >= self._most:
            return False
        self._said.add(cause)
        return True

    def end(self) -> bool:
        """Say that all is well, so that every cause is new again.

        Returns:
            Whether any cause had been said.
        """
        had_any = bool(self._said)
        self._said.clear()
        return had_any
