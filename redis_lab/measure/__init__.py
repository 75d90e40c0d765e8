"""Measuring: a closed loop (`bench`), an open one (`load`), what theory expects, and results.

From the outside these are reached as `redis_lab.bench`, `redis_lab.load` and so on.
"""
