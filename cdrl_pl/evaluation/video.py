"""Videos of frozen policies: WebM with VP8, which every browser plays, at the game's own speed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from cdrl_pl.envs import EnvConfig, Game
from cdrl_pl.evaluation.bars import Bars, draw_bars
from cdrl_pl.evaluation.evaluate import Decision, Played, play, share_out
from cdrl_pl.networks import PolicyNetwork

Array = np.ndarray[Any, Any]
Advice = Callable[[Decision], Sequence[Bars]]
MAX_STEPS = 10_000  # decisions after which an episode is taken as it is
SMALL = 400  # pixels of height below which a picture is doubled
PANEL = 320  # pixels: width of the bars beside the picture
SUFFIX, CODEC = ".webm", "VP80"


def save_episode(
    network: PolicyNetwork,
    env: EnvConfig,
    folder: Path,
    name: str,
    seed: int,
    advice: Advice | None = None,
    max_steps: int = MAX_STEPS,
    tick: Callable[[Played], None] = lambda now: None,
) -> str:
    """Plays one sampled episode and writes it as a video, a picture of every decision and of the end; returns its path.

    Args:
        network: the frozen policy.
        env: the task.
        folder: of the video; it is made.
        name: of the video: ``<name>.webm``, or ``<name>-2.webm`` and so on where there is one already.
        seed: of the environment and of the sampling, without unit.
        advice: gives the policies that are shown as bars beside the picture; None shows the picture alone.
        max_steps: decisions after which the episode is taken as it is.
        tick: called about twice a second with how far it is; what it raises ends the episode.

    Raises:
        OSError: the video cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}-{os.getpid()}{SUFFIX}"
    recorder = Recorder(unfinished, advice)
    try:
        ((episode,),) = play(network, env, share_out(1, 1, seed), False, tick, recorder, max_steps)
        recorder.close()
        path = _place(unfinished, folder, name)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{path}: return {episode.ret:g} in {episode.length} decisions")
    return str(path)


def _place(video: Path, folder: Path, name: str) -> Path:
    """Moves a finished video to the next free name, which is no older video's."""
    for number in count(1):
        path = folder / f"{name}{f'-{number}' if number > 1 else ''}{SUFFIX}"
        try:
            path.open("xb").close()
        except FileExistsError:
            continue
        os.replace(video, path)
        return path
    raise AssertionError


class Recorder:
    """Writes what it sees of one game, picture by picture.

    Args:
        path: of the video.
        advice: as in ``save_episode``.
    """

    def __init__(self, path: Path, advice: Advice | None) -> None:
        self._path, self._advice = path, advice
        self._writer: Any = None
        self._picture: Array | None = None  # not yet written: what is decided on it is shown beside it
        self._size = (0, 0)
        self._groups: Sequence[Bars] = ()
        self._value = 0.0
        self._speed = 0.0

    def saw(self, game: Game) -> None:
        """After a reset or a step."""
        self._write()
        self._picture, self._speed = game.render().copy(), game.decisions_per_second

    def decided(self, decision: Decision) -> None:
        """Before a step, on what was seen last."""
        if self._advice is not None:
            self._groups, self._value = self._advice(decision), decision.value
        self._write()

    def close(self) -> None:
        """Writes the last picture, and ends the file."""
        self._write()
        if self._writer is not None:
            self._writer.release()

    def _write(self) -> None:
        if self._picture is None:
            return
        import cv2

        picture, self._picture = self._picture, None
        scale = 2 if picture.shape[0] < SMALL else 1
        picture = picture.repeat(scale, 0).repeat(scale, 1)
        if self._groups:
            bars = draw_bars(self._groups, PANEL, len(picture), f"value {self._value:.2f}")
            picture = np.concatenate([_higher(picture, len(bars)), bars], 1)
        if self._writer is None:
            height, width = (side + side % 2 for side in picture.shape[:2])  # the codec halves both for colours
            self._size = height, width
            self._writer = _open(self._path, self._speed, (width, height))
        frame = np.zeros((*self._size, 3), np.uint8)
        frame[: picture.shape[0], : picture.shape[1]] = picture[: self._size[0], : self._size[1]]
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def _higher(picture: Array, height: int) -> Array:
    """The picture in the middle of so many rows."""
    above = (height - len(picture)) // 2
    return np.pad(picture, ((above, height - len(picture) - above), (0, 0), (0, 0)))


def _open(path: Path, speed: float, size: tuple[int, int]) -> Any:
    import cv2

    with no_native_output():  # of its tables of codecs, which do not matter where it then can write
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), speed, size)
    if not writer.isOpened():
        raise OSError(f"{path} cannot be written: it is no place to write to, or this OpenCV cannot encode VP8")
    return writer


@contextmanager
def no_native_output() -> Iterator[None]:
    """What libraries in C write to the standard error here is dropped; Python's own exceptions are not."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
