"""What may leave the process, and what is masked or reduced first."""
