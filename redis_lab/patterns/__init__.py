"""Finished patterns, one short module each. Copy what you need into your own service."""
