"""Addresses of a run or its trace, made from templates."""

from __future__ import annotations

import re
from urllib.parse import quote

from otel_storage.results.exceptions import ConfigurationError

_ADDRESS = re.compile(r"https?://[^\s{}/]+(/\S*)?")
_FIELD = re.compile(r"\{(\w*)\}")


class UrlTemplate:
    """A template of an address, with ``{run_id}`` or ``{trace_id}`` in it.

    Other braces stay as they are: Grafana's addresses hold JSON.

    Args:
        template: ``http://jaeger:16686/trace/{trace_id}``, say.
        name: The argument's name, for the error.
        fields: The fields that are replaced; the template must have at least one of them.

    Raises:
        ConfigurationError: ``template`` is no address, or has none of the fields.
    """

    def __init__(self, template: str, name: str, fields: frozenset[str]) -> None:
        example = " or ".join(sorted(f"{{{field}}}" for field in fields))
        if not _ADDRESS.fullmatch(str(template)):
            raise ConfigurationError(f"{name} must be an address that begins with http:// or https://")
        if not fields & set(_FIELD.findall(template)):
            raise ConfigurationError(f"{name} must have {example} in it, where the id of the run or its trace belongs")
        self._template = template
        self._fields = fields

    def fill(self, **values: str) -> str:
        """The address with the values in it, quoted."""
        return _FIELD.sub(lambda found: self._value(found, values), self._template)

    def _value(self, found: re.Match[str], values: dict[str, str]) -> str:
        return quote(values[found[1]], safe="") if found[1] in self._fields else found[0]
