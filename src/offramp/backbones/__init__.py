"""Networks that offramp can build or cut: one file per family."""
