"""How much memory is left on the devices."""

from pathlib import Path

import pytest
from support import use_mesh

from gpt1_jax.devices import memory


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
