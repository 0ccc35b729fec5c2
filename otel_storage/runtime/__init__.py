"""What every part needs of the process it runs in: forks, its identity, errors that go no further."""
