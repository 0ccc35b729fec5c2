"""Process-level tools for every part: forks, the process's identity, contained errors."""
