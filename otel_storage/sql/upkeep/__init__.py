"""Maintenance beside the runs: reaping, cleanup, and copies of a wrapped storage's runs."""
