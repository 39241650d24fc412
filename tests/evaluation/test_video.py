"""Videos: what is in the file, that a browser plays it, and what is shown beside the picture."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from graphs import agent, graph, spread, transfer
from wide_cartpole import CARTPOLE, WIDE

from cdrl_pl.envs import EnvConfig, make_game
from cdrl_pl.evaluation.bars import Bars, draw_bars
from cdrl_pl.evaluation.evaluate import Decision, play, share_out
from cdrl_pl.evaluation.video import Recorder, no_native_output, save_episode
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.training.evaluator import EvaluationJob
from cdrl_pl.transfer.advice import Advice

SMALL = NetworkConfig(channels=4, lstm=8)


def pong(**options: Any) -> tuple[PolicyNetwork, EnvConfig]:
    return PolicyNetwork(SMALL, (1, 42, 42), 6).eval(), EnvConfig("Pong-2017", **{"max_episode_steps": 12, **options})


def read(path: str | Path) -> tuple[list[np.ndarray[Any, Any]], Any]:
    """The pictures of a video, and OpenCV's reader of it."""
    video, pictures = cv2.VideoCapture(str(path)), []
    while (found := video.read())[0]:
        pictures.append(found[1])
    return pictures, video


@pytest.mark.parametrize(("skip", "speed"), [(4, 15), (2, 30), ((2, 4), 20), (3, 20)])
def test_a_video_is_webm_with_every_decision_at_the_games_own_speed(tmp_path: Path, skip: Any, speed: float) -> None:
    path = save_episode(*pong(frame_skip=skip), tmp_path, "pong", 0)
    assert path == str(tmp_path / "pong.webm") and b"webm" in Path(path).read_bytes()[:64]
    pictures, video = read(path)
    assert len(pictures) == 13 and pictures[0].shape == (420, 320, 3)
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(speed)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 13
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") == b"VP80"


def test_the_pictures_are_the_games_in_their_order(tmp_path: Path) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    class Eye:
        def saw(self, game: Any) -> None:
            seen.append(game.render().repeat(2, 0).repeat(2, 1))

        def decided(self, decision: Decision) -> None:
            pass

    network, env = pong(noop_max=30)
    play(network, env, share_out(1, 1, 7), False, watch=Eye(), max_steps=100)
    pictures, _ = read(save_episode(network, env, tmp_path, "pong", 7))
    assert len(pictures) == len(seen)
    for picture, own in zip(pictures, seen, strict=True):
        assert np.abs(picture[..., ::-1].astype(int) - own).mean() < 8  # what the codec loses


def test_the_speed_of_other_games_is_what_they_say(tmp_path: Path) -> None:
    assert make_game(EnvConfig("CartPole-v1"), 0).decisions_per_second == 50
    assert make_game(EnvConfig(CARTPOLE), 0).decisions_per_second > 0


def test_an_older_video_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pong.webm").write_bytes(b"older")
    made = [save_episode(*pong(), tmp_path, "pong", 0) for _ in range(2)]
    assert made == [str(tmp_path / "pong-2.webm"), str(tmp_path / "pong-3.webm")]
    assert (tmp_path / "pong.webm").read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 3  # nothing unfinished is left


def test_what_fails_on_the_way_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Recorder, decision: Decision) -> None:
        raise RuntimeError("on the way")

    monkeypatch.setattr(Recorder, "decided", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        save_episode(*pong(), tmp_path, "pong", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdrl_pl.evaluation.video.CODEC", "ABCD")
    monkeypatch.setattr("cdrl_pl.evaluation.video.SUFFIX", ".nothing")
    with pytest.raises(OSError, match=r"cannot be written: .*VP8"):
        save_episode(*pong(), tmp_path, "pong", 0)


def test_no_library_complains(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV about its codecs; the emulator says nothing here."""
    save_episode(*pong(), tmp_path, "pong", 0)
    assert capfd.readouterr().err == ""


def test_the_standard_error_is_back_after_a_quiet_moment(capfd: pytest.CaptureFixture[str]) -> None:
    with no_native_output():
        os.write(2, b"not heard")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_drawing_a_classic_game_says_nothing_of_screens_and_sound(tmp_path: Path) -> None:
    """In a process of its own, without a display: SDL complains where it looks for one."""
    pytest.importorskip("pygame")
    code = (
        "from cdrl_pl.envs import EnvConfig, check_drawn; check_drawn(EnvConfig('CartPole-v1')); "
        "import os; print(os.environ['SDL_AUDIODRIVER'])"
    )
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("SDL_", "XDG_", "DISPLAY"))}
    for given, kept in ({}, "dummy"), ({"SDL_AUDIODRIVER": "disk"}, "disk"):
        done = subprocess.run([sys.executable, "-c", code], env=bare | given, capture_output=True, text=True)
        assert done.stdout.split()[-1] == kept and "XDG_RUNTIME_DIR" not in done.stderr and "ALSA" not in done.stderr


# Beside the picture


def test_bars_are_as_long_as_probabilities() -> None:
    groups = [Bars("one", ["LEFT", "RIGHT"], np.array([0.25, 0.75]), [1]), Bars("other", ["A"], np.array([1.0]))]
    picture = draw_bars(groups, 320, 200, "value 1.00").astype(int)
    assert picture.shape == (200, 320, 3)
    first, second = ((np.abs(picture - np.array(c)).sum(-1) == 0).sum(1) for c in ((61, 154, 214), (224, 122, 47)))
    lengths = sorted(set(first[first > 20].tolist()))
    assert len(lengths) == 2 and lengths[1] / lengths[0] == pytest.approx(3, abs=0.1)
    assert second.max() / lengths[1] == pytest.approx(4 / 3, abs=0.05)


def test_many_actions_make_a_picture_higher() -> None:
    groups = [Bars("one", [str(i) for i in range(18)], np.full(18, 1 / 18))] * 3
    assert draw_bars(groups, 320, 420).shape[0] > 600


def test_the_overlay_shows_student_teacher_and_aligned_teacher_as_they_are(tmp_path: Path) -> None:
    """The teacher's memory goes from decision to decision and begins anew with the episode, as over a rollout."""
    module = graph(transfer(), agents={"alpha": agent(WIDE), "beta": agent(CARTPOLE)})
    module.eval()
    for one in module.agents.values():
        spread(one.network)
    (edge,) = module.transfers
    decisions: list[Decision] = []
    shown: list[list[Bars]] = []
    advice = Advice(module.agents, "beta", [edge])

    class Eye:
        def saw(self, game: Any) -> None:
            pass

        def decided(self, decision: Decision) -> None:
            decisions.append(decision)
            shown.append(advice(decision))

    student, teacher = module.agents["beta"], module.agents["alpha"]
    for _ in range(2):  # two episodes: the memory of the first is not the second's
        play(student.network, student.env, share_out(1, 1, 3), False, watch=Eye(), max_steps=9)
    for start in (0, len(decisions) // 2):
        part = decisions[start : start + len(decisions) // 2]
        obs, resets = (torch.stack([getattr(d, name) for d in part]) for name in ("obs", "resets"))
        output = teacher.network(obs, teacher.network.initial_state(1), resets)
        aligned = edge.alignment(output.logits)
        own = student.network(obs, student.network.initial_state(1), resets)
        for t, bars in enumerate(shown[start : start + len(part)]):
            assert [b.title for b in bars] == ["student beta", "teacher alpha", "alpha aligned"]
            assert [len(b.names) for b in bars] == [2, 5, 2] and bars[0].chosen == [part[t].action]
            for b, logits in zip(bars, (own.logits, output.logits, aligned), strict=True):
                np.testing.assert_allclose(b.probabilities, logits[t, 0].softmax(-1).detach().numpy(), atol=1e-5)
            assert part[t].value == pytest.approx(own.values[t, 0].item(), abs=1e-5)


def test_a_control_is_named_in_the_overlay() -> None:
    module = graph(transfer(control="constant"), agents={"alpha": agent(WIDE), "beta": agent(CARTPOLE)})
    decision = Decision(torch.zeros(1, 4), torch.ones(1, dtype=torch.bool), torch.zeros(1, 8), torch.zeros(2), 0.0, 0)
    state = module.agents["beta"].network.initial_state(1)
    _, teacher, _ = Advice(module.agents, "beta", module.transfers)(decision._replace(state=state))
    assert teacher.title == "teacher alpha (control: constant)"
    np.testing.assert_allclose(teacher.probabilities, 0.2)


def test_predict_shows_it_where_it_is_wanted(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    module = graph(transfer(), agents={"alpha": agent(WIDE), "beta": agent("CartPole-v1")})
    plain, overlaid = (EvaluationJob("beta", False, 1, 0, 0, overlay=overlay) for overlay in (False, True))
    sizes = [read(module.evaluator.record(job, tmp_path))[0][0].shape for job in (plain, overlaid)]
    assert sizes == [(400, 600, 3), (400, 920, 3)]


# A browser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PAGE = """<!doctype html><video muted autoplay src="pong.webm"></video><pre>nothing</pre><img src="/wait"><script>
const video = document.querySelector("video"), told = document.querySelector("pre"); let frames = 0, can = false;
function count() { frames++; video.requestVideoFrameCallback(count) } video.requestVideoFrameCallback(count);
video.oncanplay = () => can = true;
video.onerror = () => { told.textContent = video.error.message; fetch("/done") };
video.onended = () => { told.textContent = `${can} ${video.duration} ${video.currentTime} ${frames}`; fetch("/done") };
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser")
def test_a_browser_plays_it_to_the_end(tmp_path: Path) -> None:
    """The page is read once the video has ended: an image of it comes no earlier."""
    save_episode(*pong(max_episode_steps=29), tmp_path, "pong", 0)
    (tmp_path / "page.html").write_text(PAGE)
    done = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.path == "/done":
                done.set()
            if self.path == "/wait":
                done.wait(60)
                time.sleep(0.2)
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom",
               "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    try:
        address = f"http://127.0.0.1:{server.server_port}/page.html"
        read = subprocess.run([str(BROWSER), *options, address], capture_output=True, text=True, timeout=120).stdout
    finally:
        server.shutdown()
    told = re.search(r"<pre>(.*?)</pre>", read)
    assert told is not None, read
    can, duration, at, frames = told[1].split()
    assert (
        can == "true" and float(duration) == float(at) == pytest.approx(30 / 15, abs=0.01) and 25 <= int(frames) <= 30
    )
