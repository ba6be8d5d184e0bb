"""Orbax, integrity, and the protocol of the directory."""
