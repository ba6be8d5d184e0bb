"""A run: its config, its work directory, its metrics, its set-up."""
