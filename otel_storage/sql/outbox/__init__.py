"""References to final records whose spans are not acknowledged yet, and the data of those spans."""
