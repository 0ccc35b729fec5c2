"""What our parts promise each other: the outbox, snapshots of records, copies of runs, totals."""
