"""What fits the package into frameworks; nothing else of ours imports it."""
