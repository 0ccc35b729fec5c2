"""The database: its engine, the policy of each backend, the schema and its types."""
