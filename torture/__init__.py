"""Promises of reliability, each shown by breaking things: `python -m torture`, or `make torture`."""
