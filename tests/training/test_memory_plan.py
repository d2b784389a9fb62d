"""What a step takes at the very least, beside what its compiler says, and what a machine has."""

from pathlib import Path
from typing import Any

import pytest
from support import tiny_config, use_mesh

from gpt1_jax.ahead import compiling
from gpt1_jax.config import Config
from gpt1_jax.devices import memory
from gpt1_jax.errors import UserError
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.training import memory_plan
from gpt1_jax.training.pretraining import pretrain

VOCAB = 380


def needed(config: Config, mesh: Any) -> tuple[int, int]:
    params = memory_plan.abstract_params(make_trunk(config.model, VOCAB), mesh)
    return memory_plan.memory_needed(params, config.model, config.train, mesh, config.model.context_length)


@pytest.mark.parametrize(
    ("axes", "remat", "accumulation"),
    [({}, "full", 1), ({"data": 2, "tensor": 2}, "none", 1), ({"fsdp": 4}, "full", 2)],
)
def test_no_step_takes_less_than_is_counted(
    axes: dict[str, int], remat: str, accumulation: int, quick_compilation: None
) -> None:
    """A plan is refused only where it surely does not fit: the compiler never finds room for less."""
    config = tiny_config(
        **{
            "model.attention": "plain",
            "model.remat": remat,
            "model.unroll": 1,
            "model.context_length": 64,
            "train.batch_size": 64,
            "train.accumulation": accumulation,
        }
    )
    with use_mesh(**axes) as mesh:
        compiled: Any = (
            compiling._lower(make_trunk(config.model, VOCAB), config, mesh).compile().memory_analysis()
        )
        kept, passing = needed(config, mesh)
    taken = compiled.argument_size_in_bytes + compiled.temp_size_in_bytes
    assert kept + passing <= taken
    # Nor is it far off where parameters are most of it.
    assert kept > 0.9 * compiled.argument_size_in_bytes


def test_what_is_split_over_devices_is_counted_once() -> None:
    config = tiny_config(**{"train.batch_size": 64})
    with use_mesh() as mesh:
        whole = needed(config, mesh)
    with use_mesh(data=4) as mesh:
        kept, passing = needed(config, mesh)
    assert (kept, passing) == (whole[0], whole[1] // 4)
    with use_mesh(fsdp=4) as mesh:
        kept, passing = needed(config, mesh)
    assert kept < 0.3 * whole[0] and passing == whole[1] // 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model.num_layers": 2**20 - 1}, "set a smaller model"),
        (
            {"model.d_model": 2**20 - 4, "model.d_ff": 2**20 - 1, "model.num_layers": 2**20 - 1},
            "a smaller model",
        ),
        ({"model.d_ff": 2**20 - 1, "model.num_layers": 400}, "mesh.fsdp"),
        ({"train.batch_size": 2**24 - 8}, "train.batch_size lower"),
    ],
)
def test_a_plan_that_no_machine_holds_is_refused_before_anything_is_compiled(
    overrides: dict[str, int], words: str
) -> None:
    config = tiny_config(**overrides)
    with use_mesh() as mesh, pytest.raises(UserError) as caught:
        memory_plan.check_memory(
            make_trunk(config.model, VOCAB), config.model, config.train, mesh, config.model.context_length
        )
    message = str(caught.value)
    assert "GB per device" in message and words in message


def test_a_run_is_not_begun_where_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same directory then serves for corrected settings."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    for number in range(21):
        (tmp_path / f"{number}.txt").write_text(f"The river {number} carries old songs. " * 200)
    config = tiny_config(
        **{
            "data.source": f"text:{tmp_path}/*.txt",
            "data.cache_dir": f"{tmp_path}/cache",
            "data.vocab_size": 300,
        }
    )
    with pytest.raises(UserError, match=r"there are 1e-06 GB"):
        pretrain(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
