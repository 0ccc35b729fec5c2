"""Whole runs: the real host in a process of its own, a real database, a real receiver."""
