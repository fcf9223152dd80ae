"""Measurements that the documentation quotes; each file is a command."""
