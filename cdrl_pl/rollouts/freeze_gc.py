"""Imported last by the fork server: what it has loaded is shared with the workers forked from it, and stays shared.

A garbage collection in a worker would write to every object that it came with, and so copy them: 36 MB each.
"""

import gc

gc.collect()
gc.freeze()
