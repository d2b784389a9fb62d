"""Runs lm-evaluation-harness with runs as models: python -m gpt1_jax.lm_eval --model=gpt1_jax --model_args=run=RUN …

The command line is the harness's own, which finds models by their names and lets no other package add some.
"""

import multiprocessing
import sys
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.wording import fitted

NAME = "gpt1_jax"


def register() -> type[Any]:
    """Makes runs known to the harness as the model `gpt1_jax`; returns its class.

    Raises:
        UserError: the harness is not installed.
    """
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
        from lm_eval.api.registry import model_registry  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise UserError(
            f"{missing} is not installed; install the extra: pip install 'gpt1_jax[lm_eval]'."
        ) from error
    from gpt1_jax.usage.harness import Answers

    if NAME not in model_registry:
        model_registry.register(NAME, target=type("Model", (Answers, LM), {}))
    return model_registry.get(NAME)


def main() -> None:
    """Runs the harness's command; what is wrong with a run, or with the network, is one sentence."""
    try:
        register()
        # The harness draws its bootstrap samples in processes of their own, and JAX's threads do not survive a fork.
        multiprocessing.set_start_method("forkserver")
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

        cli_evaluate()
    except UserError as error:
        print(fitted(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except ConnectionError as error:
        mend = "connect this machine, or write a task on files of yours, see --include_path"
        print(fitted(f"error: The data of a task are out of reach ({error}); {mend}."), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
