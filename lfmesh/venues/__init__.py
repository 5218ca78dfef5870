"""L2: the exchanges."""
