"""Runs a command by name, `gpt1 COMMAND` or `python -m gpt1_jax COMMAND`; without a name, lists what there is."""

import runpy
import signal
import sys

from gpt1_jax.huge_pages import use_huge_pages

COMMANDS = {
    "train": "main",
    "evaluate": "evaluate",
    "predict": "predict",
    "generate": "generate",
    "score": "score",
    "audit": "audit",
    "tokenize": "tokenize",
    "prepare": "prepare",
    "convert": "convert",
    "compile": "compile",
    "report": "report",
}


def main() -> None:
    """Runs the command that the first argument names with the other arguments; exits with 2 if there is none."""
    name, *arguments = sys.argv[1:] or ["help"]
    if name in ("help", "--help", "-h"):
        # `gpt1 | head` should end as other programs do.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(describe())
    elif name in COMMANDS:
        if name == "train":
            use_huge_pages()
        sys.argv = [f"gpt1 {name}", *arguments]
        runpy.run_module(f"gpt1_jax.{COMMANDS[name]}", run_name="__main__")
    else:
        print(f"error: gpt1 has no command {name!r:.80}; it has {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


def describe() -> str:
    """Returns the commands with a sentence each, the presets and the tasks."""
    from gpt1_jax.help import list_commands, list_presets, list_tasks

    return "\n".join(
        [
            "Commands: gpt1 COMMAND, or python -m gpt1_jax COMMAND; with --help, its flags:",
            *list_commands(COMMANDS),
            "",
            "Presets of pre-training (gpt1 train --config=pretrain[:PRESET]):",
            *list_presets(),
            "",
            "Tasks (gpt1 train --config=finetune:TASK --config.init_from=RUN):",
            *list_tasks(),
        ]
    )


if __name__ == "__main__":
    main()
