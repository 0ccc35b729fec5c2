"""Decides what may leave the process, and masks or reduces it first."""
