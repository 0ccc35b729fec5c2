"""What the promise stands up to: forks and exits, a backlog of any size, and whatever breaks beside a run."""
