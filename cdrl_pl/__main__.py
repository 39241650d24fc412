"""``python -m cdrl_pl``. Light on purpose: worker processes import it again, and the top help must be quick."""

from __future__ import annotations

import sys

HELP = """\
usage: python -m cdrl_pl {fit,validate,test,predict} --config FILE [options]

Deep reinforcement learning agents that teach each other across different tasks.

  fit        train every agent of the config, with its transfers
  validate   evaluate the agents' frozen policies on fresh environments (with --ckpt_path or certificated teachers)
  test       the same, under the test stage's name in the logs
  predict    record a video of every agent

what people change most (beside any --model.*, --data.* and --trainer.* option):
  --T1 N           decisions of the student at which alignment training starts, for every transfer
  --T2 N           decisions at which distillation starts, for every transfer
  --stop N         decisions at which both end, or "never"
  --T_max N        decisions of every agent at which the run ends
  --workers N      environment worker processes per agent
  --copies N       environment copies per worker
  --seed N         seed of everything (without it: 0)
  --precision P    32-true, bf16-mixed or 16-mixed
  --devices N      devices to train on; with --trainer.strategy ddp for several
  --ckpt_path F    resume from (fit) or evaluate (the others) a checkpoint; options given beside it hold

python -m cdrl_pl fit --help lists every option. Start with: python -m cdrl_pl fit --config configs/quickstart.yaml
"""


def main() -> None:
    """The command line."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(HELP, end="")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    if sys.argv[1] == "--version":
        from cdrl_pl import __version__

        print(__version__)
        return
    from cdrl_pl.cli import run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
