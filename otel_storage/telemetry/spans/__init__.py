"""Stored records -> spans: ids, attributes, what was decided for a run's trace."""
