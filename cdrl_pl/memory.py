"""The memory of a network, an LSTM or a GRU: over rollouts with resets, and one step at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = nn.LSTM | nn.GRU


def remember_rollout(memory: Memory, x: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
    """The memory over a rollout: one call between resets, not one per step.

    Args:
        memory: of width W.
        x: what it reads, [T, B, D].
        state: before row 0, [B, S] fp32: S = 2 W of an LSTM (hidden and cell), W of a GRU.
        resets: [T, B] bool, on the host: rows before which the state is zeroed.

    Returns:
        What it says, [T, B, W] fp32, and the state after it.
    """
    steps = len(resets)
    begins: Any = resets.numpy().any(1).tolist()
    cuts = [0, *(t for t in range(1, steps) if begins[t]), steps]
    outputs = []
    for start, end in pairwise(cuts):
        if begins[start]:
            state = state.masked_fill(resets[start].to(state.device).unsqueeze(-1), 0.0)
        parts = [part.contiguous().unsqueeze(0) for part in state.split(memory.hidden_size, -1)]
        if isinstance(memory, nn.LSTM):
            output, after = memory(x[start:end], tuple(parts))
        else:
            output, *after = memory(x[start:end], parts[0])
        outputs.append(output.float())
        state = torch.cat([part[0] for part in after], -1).float()
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), state


def remember_step(memory: Memory, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One step, x [B, D], state [B, S] -> h [B, W], state [B, S]; the state stays in fp32.

    A third of the cost of ``nn.LSTM`` on a rollout of one step, which prepares its weights anew at every call.
    """
    w_ih, w_hh, b_ih, b_hh = (memory.get_parameter(f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if isinstance(memory, nn.LSTM):
        h, c = state.chunk(2, -1)
        gates = (F.linear(x, w_ih, b_ih) + F.linear(h.to(w_hh.dtype), w_hh, b_hh)).float()
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, torch.cat([h, c], -1)
    read, kept = F.linear(x, w_ih, b_ih).float(), F.linear(state.to(w_hh.dtype), w_hh, b_hh).float()
    (r, z, n), (r_kept, z_kept, n_kept) = read.chunk(3, -1), kept.chunk(3, -1)
    update = torch.sigmoid(z + z_kept)
    new = torch.tanh(n + torch.sigmoid(r + r_kept) * n_kept)
    state = (1.0 - update) * new + update * state
    return state, state
