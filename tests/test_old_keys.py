"""Configs and runs that are older than a key."""

from support import tiny_config

from gpt1_jax.config import schema
from gpt1_jax.old_runs import keep_before
from gpt1_jax.overrides import to_dict


def test_a_config_older_than_a_key_keeps_what_an_older_run_had() -> None:
    """The user's own file need not name the key, any more than the run does."""
    begun = to_dict(tiny_config(**{"data.split_seed": schema()["data.split_seed"].before}))
    named, silent = (to_dict(tiny_config()) for _ in range(2))
    del silent["data"]["split_seed"]
    for values in (named, silent):
        assert keep_before(values, begun)["data"]["split_seed"] == -1
    chosen = to_dict(tiny_config(**{"data.split_seed": 7}))
    assert keep_before(chosen, begun)["data"]["split_seed"] == 7
