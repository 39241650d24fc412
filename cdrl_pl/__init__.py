"""Collaborative deep reinforcement learning: agents that teach each other across different tasks."""

__version__ = "0.2.0"
