"""Tests of the SQL storage."""
