"""Commands of the orders."""
