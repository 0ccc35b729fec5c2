"""Sends the spans of what is in the outbox until they are acknowledged."""
