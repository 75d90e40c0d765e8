"""Measuring: a closed loop (`bench`), an open loop (`load`), theory, and results.

Users reach these as `redis_lab.bench`, `redis_lab.load` and so on.
"""
