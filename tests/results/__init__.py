"""Tests of the standard interface."""
