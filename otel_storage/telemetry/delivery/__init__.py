"""Sends the spans of outbox entries until they are acknowledged."""
