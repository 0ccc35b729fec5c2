"""The protocols between the parts of this package: the outbox, snapshots of records, copies of runs, totals."""
