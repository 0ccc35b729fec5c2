"""References to final records whose spans are not acknowledged yet, and what is read for those spans."""
