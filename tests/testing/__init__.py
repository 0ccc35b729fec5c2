"""Tests of what the package ships for users' tests."""
