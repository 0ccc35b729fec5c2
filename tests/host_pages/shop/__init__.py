"""The Django app of the site: models, and pipelines over them."""
