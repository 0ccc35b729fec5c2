"""Integrations with frameworks; no other part of the package imports them."""
