"""Mesh and shardings, and processes that train as one."""
