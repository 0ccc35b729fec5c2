"""Turns stored records into spans: ids, attributes, and the stored decision about a run's trace."""
