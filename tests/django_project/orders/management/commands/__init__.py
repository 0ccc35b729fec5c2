"""Commands of the orders, a module each."""
