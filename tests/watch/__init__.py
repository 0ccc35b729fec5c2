"""Storages that are not ours, wrapped."""
