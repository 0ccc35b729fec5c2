"""How to install what an optional part of the package needs."""

from __future__ import annotations


def to_install(extra: str) -> str:
    """The words that end an error about a missing module: which extra brings it, and the command in a checkout."""
    return f"install the extra {extra!r} (in a checkout of otel-storage: pip install '.[{extra}]')"
