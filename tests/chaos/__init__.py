"""The promise of delivery, held against processes that are killed and servers that fail: ``python -m tests.chaos``.

Writers run pipelines of the host, senders drain the outbox, and a plan that a seed makes kills them at any instruction,
takes the receiver and the database away, and has the receiver lie. Once that is over and all runs are closed, what
arrived must be just what the database says, to the byte.
"""
