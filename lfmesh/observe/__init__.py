"""L2: what people and monitors see of a process: log, ops HTTP, metrics, process figures."""
