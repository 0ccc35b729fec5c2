"""The project's tests. A package, because the host's distribution installs a package ``tests`` of its own."""
