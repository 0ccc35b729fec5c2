"""The package's types, as a user's own code meets them."""
