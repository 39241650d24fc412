"""``python -m cdrl_pl``. Light on purpose: worker processes import it again, and the top help must be quick."""

from __future__ import annotations

import sys

HELP = """\
usage: python -m cdrl_pl {fit,validate,test,predict} --config FILE [options]
       python -m cdrl_pl {experiment,report} ...

Deep reinforcement learning agents that teach each other across different tasks.

  fit         train every agent of the config, with its transfers
  validate    evaluate the agents' frozen policies on fresh environments (with --ckpt_path or certificated teachers)
  test        the same, and writes scores.json: every return, with its protocol
  predict     record a video of every agent
  experiment  run every arm of an experiment file with every seed, or what is missing of it
  report      compare arms: an HTML page, a Markdown table and figures from runs or an experiment's folder

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
  --teacher F      (test, validate, predict) a certificated teacher's folder instead of a config ...
  --env ID         ... and the task it plays, its own unless given
  --episodes N     episodes per policy in test and validate
  --ckpt_path F    resume from (fit) or evaluate (the others) a checkpoint, or the newest whole one of a run's folder;
                   options given beside it hold
  --imports A,B    refuse configs that would import anything but what is in these packages, before any import

python -m cdrl_pl COMMAND --help lists every option. Start with: python -m cdrl_pl fit --config configs/quickstart.yaml
"""


COMMANDS = ("fit", "validate", "test", "predict", "experiment", "report")


def main() -> None:
    """The command line.

    Raises:
        SystemExit: 0 after the help, 2 where the first argument is no command.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="", file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        from cdrl_pl import __version__

        print(__version__)
        return
    if arguments[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(arguments[0], COMMANDS, n=1, cutoff=0.0)
        raise SystemExit(_no_command(arguments[0], near[0]))
    if arguments[0] == "experiment":
        from cdrl_pl.cli.experiment import main as experiment

        raise SystemExit(experiment(arguments[1:]))
    if arguments[0] == "report":
        from cdrl_pl.cli.report import main as report

        raise SystemExit(report(arguments[1:]))
    if arguments[0] == "fit" and "--config" in arguments:
        from cdrl_pl.system.fork_server import start_fork_server

        start_fork_server()
    from cdrl_pl.cli.main import run

    run(arguments)


def _no_command(word: str, near: str) -> int:
    hint = "the first argument must be one" if word.startswith("-") else f"did you mean {near}?"
    print(f"error: {word!r} is no command; {hint} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
