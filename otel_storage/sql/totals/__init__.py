"""Totals of final records, and the digest that is computed from the totals."""
