"""The embedded datasets and the pool for retrieval, made from what TinySD never saw."""
