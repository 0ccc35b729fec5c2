"""Tests of what becomes of records: spans, and their delivery."""
