"""Takes descriptions and repetitions out of a generated schema: ``python shrink.py schema.json VERSION``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

LARGE = 300
"""Parts longer than that are written once."""


def without_words(part: Any) -> Any:
    """The part without what is for readers; a property may be called ``description``."""
    if isinstance(part, list):
        return [without_words(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: {name: without_words(one) for name, one in value.items()} if key == "properties" else without_words(value)
        for key, value in part.items()
        if key not in ("description", "default")
    }


def count(part: Any, found: Counter[str]) -> None:
    """Count each large part of an object's schema."""
    if isinstance(part, list):
        for one in part:
            count(one, found)
    elif isinstance(part, dict):
        text = json.dumps(part, sort_keys=True)
        if len(text) > LARGE and (part.get("type") == "object" or "anyOf" in part):
            found[text] += 1
        for one in part.values():
            count(one, found)


def referring(part: Any, shared: dict[str, str], *, is_top: bool = False) -> Any:
    """The part with references to what is shared."""
    if isinstance(part, list):
        return [referring(one, shared) for one in part]
    if not isinstance(part, dict):
        return part
    name = None if is_top else shared.get(json.dumps(part, sort_keys=True))
    if name:
        return {"$ref": f"#/definitions/{name}"}
    return {key: referring(value, shared) for key, value in part.items()}


def shrunk(schema: dict[str, Any], version: str) -> dict[str, Any]:
    """The schema, shorter: a definition for each property of ``Checked``."""
    checked = without_words(schema)["definitions"]["Checked"]
    found: Counter[str] = Counter()
    count(checked, found)
    shared = {text: f"shared{number}" for number, text in enumerate(text for text, times in found.items() if times > 1)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"Made from @grafana/schema {version}, Copyright Grafana Labs, Apache License 2.0, "
        "by ts-json-schema-generator: README.md, LICENSE_APACHE2. Changed: another form, without descriptions.",
        "definitions": {
            **{name: referring(part, shared) for name, part in checked["properties"].items()},
            **{name: referring(json.loads(text), shared, is_top=True) for text, name in shared.items()},
        },
    }


if __name__ == "__main__":
    made = shrunk(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
    sys.stdout.write(json.dumps(made, separators=(",", ":"), sort_keys=True) + "\n")
