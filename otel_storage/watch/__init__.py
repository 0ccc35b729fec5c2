"""Watches a storage of another package: hooks its records, whose changes are copied and traced."""
