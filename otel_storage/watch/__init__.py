"""Watches a storage that is not ours: its records tell of their transitions, as ours do by themselves."""
