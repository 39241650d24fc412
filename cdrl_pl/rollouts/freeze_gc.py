"""Imported last by the fork server: what it has loaded stays shared with the workers, and a signal to all leaves it be.

A garbage collection in a worker would write to every object that it came with, and so copy them: 36 MB each. A batch
system tells every process of a job at once; the trainer ends its own, and the server goes with the trainer.
"""

import gc

from cdrl_pl.system.stop import ignore_signals

ignore_signals()
gc.collect()
gc.freeze()
