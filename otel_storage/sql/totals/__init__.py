"""Totals of final records, and the digest that is made from them."""
