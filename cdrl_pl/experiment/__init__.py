"""Arms by seeds: what an experiment file says, what its folder holds, and the processes that fill it. Torch-free."""
