"""Devices that are not there: compiling for them, and reading what was compiled."""
