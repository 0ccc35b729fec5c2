"""The shops' orders: read from files every day, and loaded."""
