"""Adapters that hold libraries which people install to the contracts of `redis-lab drill`.

Each library is configured as its own documentation advises where processes share the work; times
are as short as it takes. What its documentation says of a promise that it does not make stands in
`says`; the empty string where it says nothing.

To run one of them alone, in the folder above: redis-lab drill rivals.locks:PotteryRedlock --as lock
"""
