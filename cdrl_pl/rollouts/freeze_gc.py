"""The freeze of what the fork server has loaded, imported last: it is shared with the workers, and stays shared.

A garbage collection in a worker would write to every object that it came with, and so copy them: 36 MB each.
"""

import gc

gc.collect()
gc.freeze()
