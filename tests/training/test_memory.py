"""What a step takes at the very least, beside what its compiler says, and what a machine has."""

from pathlib import Path
from typing import Any

import pytest
from support import tiny_config, use_mesh

from gpt1_jax.config import Config
from gpt1_jax.errors import UserError
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.training import ahead, memory
from gpt1_jax.training.pretraining import pretrain

VOCAB = 380


def needed(config: Config, mesh: Any) -> tuple[int, int]:
    params = memory.abstract_params(make_trunk(config.model, VOCAB), mesh)
    return memory.memory_needed(params, config, mesh, config.model.context_length)


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
            ahead._lower(make_trunk(config.model, VOCAB), config, mesh).compile().memory_analysis()
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
        memory.check_memory(make_trunk(config.model, VOCAB), config, mesh, config.model.context_length)
    message = str(caught.value)
    assert "GB a device" in message and words in message


def test_a_run_is_not_begun_where_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the same directory serves when the settings are mended."""
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
    with pytest.raises(UserError, match=r"1e-06 GB are there"):
        pretrain(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_devices_of_a_cpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 8000)
    for axes, room in (({}, 8000), ({"data": 4}, 2000)):
        with use_mesh(**axes) as mesh:
            assert memory.memory_at_hand(mesh) == room


def test_a_machine_tells_what_it_has() -> None:
    room = memory.machine_memory()
    assert room is None or 10**8 < room < 10**15


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 5\ninactive_file 200"}, 500),
        ({"memory.max": "max", "memory.current": "700", "memory.stat": ""}, None),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "total_inactive_file 10",
            },
            110,
        ),
        ({}, None),
        ({"memory.max": "nonsense", "memory.current": "1", "memory.stat": ""}, None),
    ],
)
def test_a_control_group_limits_what_there_is(
    files: dict[str, str], room: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert memory._room_in(tmp_path) == room


def test_control_groups_are_found_with_those_around_them(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("3:cpu,cpuacct:/x\n4:memory:/a/b\n0::/c\n")
    root = tmp_path / "fs"
    found = memory._control_groups(proc, root)
    assert found == [root / "memory/a/b", root / "memory/a", root / "memory", root / "c", root]
