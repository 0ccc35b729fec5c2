"""The four kinds of record: building, reading and changing them."""
