"""Asks a person before anything is imported that a certificate names."""

from __future__ import annotations

import sys
from typing import Any

from cdrl_pl.agents.certificate import named_modules, read_certificate
from cdrl_pl.class_paths import is_within


def ask_for_trust(agents: dict[str, Any], plays: bool) -> None:
    """Where a person sits at a terminal, asks for what the certificates name and the config does not trust.

    A yes goes into the agent's ``trust``, and so into the run's config. Without a terminal nothing is asked, and what
    is needed is refused where it is needed.

    Args:
        agents: the config's, by name.
        plays: whether the agents play their own tasks, so that the modules of those are needed, too.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    for agent in dict(agents).values():
        if not (folder := agent.get("certificate") or agent.get("init")):
            continue
        for module, what in named_modules(read_certificate(folder)).items():
            needed = what == "network.trunk" or (plays and agent.get("env") is None)
            if needed and not is_within(module, agent.trust):
                sys.stderr.write(f"the certificate {folder} names the module {module} as its {what}. Import it? [y/N] ")
                sys.stderr.flush()
                if sys.stdin.readline().strip().lower() in ("y", "yes"):
                    agent.trust = (*agent.trust, module)
