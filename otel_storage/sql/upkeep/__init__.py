"""What is done beside the runs: reaping, cleanup, copies of a wrapped storage's runs."""
