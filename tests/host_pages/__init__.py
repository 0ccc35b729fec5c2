"""The host's pages and commands on our storage: a real Django site in a process of its own."""
