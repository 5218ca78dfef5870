"""L2: durable state."""
