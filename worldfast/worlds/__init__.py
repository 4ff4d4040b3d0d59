"""Worlds: a folder each. The command line and the package's door import them, no other room does."""
