"""Tests of what every part needs of its process."""
