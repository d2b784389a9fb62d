"""Memory of the devices: how much more they can hold, and the most that they have held."""

import resource
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh


def device_memory() -> float | None:
    """Returns the most gigabytes held so far by the fullest local device, or None if devices do not report it."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return max(peaks) / 1e9 or None


def peak_memory() -> str:
    """Says the most memory held so far, by the fullest local device if it reports that, or else by this process."""
    if gigabytes := device_memory():
        return f"{gigabytes:.2f} GB per device"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB in the process"


def memory_at_hand(mesh: Mesh) -> int | None:
    """Returns how many more bytes each device of the mesh can hold, or None if that is unknown."""
    device: Any = next((d for d in mesh.devices.flat if d.process_index == jax.process_index()), None)
    if device is None:
        return None
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None or device.platform != "cpu":
        return limit
    here = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    room = machine_memory()
    # The devices of a CPU share its memory.
    return None if room is None else room // here


def machine_memory() -> int | None:
    """Returns how many more bytes this process can use, by free memory and its limits; None except on Linux."""
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {line[0]: int(line[1]) * 1024 for line in lines}
        rooms = [sizes["MemAvailable:"] + sizes["SwapFree:"]]
    except (OSError, KeyError):
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    rooms += [] if soft == resource.RLIM_INFINITY else [soft]
    return min(rooms + [room for group in _control_groups() if (room := _room_in(group)) is not None])


def _control_groups(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[Path]:
    """Yields the directories of Linux's control groups that may limit this process's memory."""
    found = []
    for line in proc.read_text().splitlines() if proc.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root
        elif "memory" in controllers.split(","):
            base = root / "memory"
        else:
            continue
        inner = base / path.lstrip("/")
        found += [inner, *(parent for parent in inner.parents if parent.is_relative_to(base))]
    return found


def _room_in(group: Path) -> int | None:
    """Returns how many more bytes a control group can use, droppable file caches included; None without a limit."""
    for limit, usage, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return None if most == "max" else int(most) - used + int(stat.get(files, 0))
        except (OSError, ValueError):
            continue
    return None
