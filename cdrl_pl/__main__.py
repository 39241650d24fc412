"""``python -m cdrl_pl``. Light on purpose: worker processes import it again, and the top help must be quick."""

from __future__ import annotations

import sys

HELP = """\
usage: python -m cdrl_pl {{fit,validate,test,predict}} --config FILE [options]
       python -m cdrl_pl {{experiment,tune,report,import,export,doctor}} ...

Deep reinforcement learning agents that teach each other across different tasks.

  fit         train every agent of the config, with its transfers
  validate    evaluate the agents' frozen policies on fresh environments (with --ckpt_path or certificated teachers)
  test        the same, and writes scores.json: every return, with its protocol
  predict     record a video of every agent
  experiment  run every arm of an experiment file with every seed, or what is missing of it
  tune        search for better options of a config: trials chosen and given up by Optuna, from a sweep file
  report      compare arms: an HTML page, a Markdown table and figures from runs or an experiment's folder
  import      make a certificated teacher of a policy of another library, and prove it by playing
  doctor      check this machine, and a config's run up to its first worker: what would fail, and what to change
  export      write a certificated teacher, or an agent of a run, as an ONNX graph

what people change most (beside any --model.*, --data.* and --trainer.* option):
{options}

{nested}

python -m cdrl_pl COMMAND --help lists every option. Start with: python -m cdrl_pl fit --config quickstart
"""

WIDTH = 120  # columns

OWN = {
    "experiment": "cdrl_pl.cli.experiment",
    "tune": "cdrl_pl.cli.tune",
    "report": "cdrl_pl.cli.report",
    "import": "cdrl_pl.cli.importing",
    "export": "cdrl_pl.cli.exporting",
    "doctor": "cdrl_pl.cli.doctor",
}  # commands that are not Lightning's, and the modules whose main runs them
COMMANDS = ("fit", "validate", "test", "predict", *OWN)


def help_text() -> str:
    """The top help: the commands, and what people change most."""
    from textwrap import fill

    from cdrl_pl.cli.options import CKPT_PATH, NESTED, PROGRAM, SHORT

    lines = {f"{name} {short.value}": short.help for name, short in SHORT.items()} | {"--ckpt_path F": CKPT_PATH}
    options = [fill(f"  {name:<15}  {said}", WIDTH, subsequent_indent=" " * 19) for name, said in lines.items()]
    text = HELP.format(options="\n".join(options), nested=fill(NESTED, WIDTH))
    return text.replace("python -m cdrl_pl", PROGRAM)


def main() -> None:
    """The command line.

    Raises:
        SystemExit: 0 after the help, 2 where the first argument is no command.
    """
    from cdrl_pl.system.output import outlive_the_terminal

    outlive_the_terminal()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(), end="", file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        from cdrl_pl import __version__

        print(__version__)
        return
    if arguments[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(arguments[0], COMMANDS, n=1, cutoff=0.0)
        raise SystemExit(_no_command(arguments[0], near[0]))
    if arguments[0] in OWN:
        from importlib import import_module

        raise SystemExit(import_module(OWN[arguments[0]]).main(arguments[1:]))
    from cdrl_pl.cli.slips import check_slips
    from cdrl_pl.system.stop import end_at_once_when_told

    check_slips(arguments)
    end_at_once_when_told()  # what is imported now takes seconds
    if arguments[0] == "fit" and any(word.startswith(("--config", "-c")) for word in arguments):
        from cdrl_pl.checks import ConfigError
        from cdrl_pl.system.fork_server import start_fork_server

        try:
            start_fork_server()
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
    from cdrl_pl.cli.main import run

    run(arguments)


def _no_command(word: str, near: str) -> int:
    hint = "the first argument must be one" if word.startswith("-") else f"did you mean {near}?"
    print(f"error: {word!r} is no command; {hint} (commands: {', '.join(COMMANDS)})", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
