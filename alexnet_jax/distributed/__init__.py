"""Mesh and shardings, and processes that train together."""
