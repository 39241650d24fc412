"""Lightning callbacks: when transfers teach, what is stored, and what a person sees.

The same module as ``cdrl_pl.callbacks``, which a folder of this name elsewhere does not shadow.
"""

import sys

import cdrl_pl.callbacks as ours
from cdrl_pl.callbacks import *  # noqa: F403
from cdrl_pl.callbacks import __all__ as __all__

for _name in [name for name in sys.modules if name.startswith(f"{ours.__name__}.")]:
    sys.modules[__name__ + _name.removeprefix(ours.__name__)] = sys.modules[_name]
sys.modules[__name__] = ours
