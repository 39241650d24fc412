"""Videos of frozen policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdrl_pl.envs import with_noops
from cdrl_pl.evaluation import record


def save_episode(agent: Any, name: str, folder: str, data: Any) -> str:
    """Plays one sampled episode of ``agent`` and writes ``folder/videos/name.mp4``; returns the path.

    Raises:
        OSError: the video cannot be written.
    """
    import cv2

    frames, total = record(agent.network, with_noops(agent.env, data.noop_max), seed=data.resolved_seed())
    path = Path(folder) / "videos" / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    scale = 2 if height < 400 else 1
    size = (width * scale, height * scale)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15.0, size)
    if not writer.isOpened():
        raise OSError(f"{path} cannot be written as a video")
    for frame in frames:
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST)
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    print(f"{path}: return {total:g} in {len(frames) - 1} decisions")
    return str(path)
