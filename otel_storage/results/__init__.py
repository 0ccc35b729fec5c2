"""The standard interface of a results storage: statuses, records, storage, settings and helpers.

Nothing in this package imports another package of ours but ``runtime``.
"""
