"""SqlPipelineStorage: the records in SQL, through SQLAlchemy."""
