"""The pool of asynchronous environment worker processes and the shared memory between them and the learner."""
