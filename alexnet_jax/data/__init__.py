"""From files to uint8 batches on the host. No JAX."""
