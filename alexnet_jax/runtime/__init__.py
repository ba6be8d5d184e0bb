"""What every command needs of Python and the system; no JAX, no data, no network."""
