"""Tests of what our parts promise each other."""
