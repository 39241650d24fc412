"""What tests of the root module share."""

from __future__ import annotations

import torch
from graphs import State

from cdrl_pl.agents.student import Student
from cdrl_pl.training.collaboration import Collaboration

F, ALPHA, BETA = "_transfers.alpha-beta.alignment.", "_agents.alpha.network.", "_agents.beta.network."

PHASES = {"T1": 30, "T2": 60, "stop": 90}


def equal(one: State, other: State, prefix: str = "") -> bool:
    keys = [k for k in one if k.startswith(prefix)]
    assert keys
    return all(torch.equal(one[k], other[k]) for k in keys)


def student_of(module: Collaboration, name: str = "beta") -> Student:
    found = module.agents[name]
    assert isinstance(found, Student)
    return found
