"""What is in ``collector/``, held to the real programs that it is for."""
