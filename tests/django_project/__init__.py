"""A whole Django site with pipelines in Celery and their traces; see README.md."""
