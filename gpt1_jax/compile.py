"""Compiles for a TPU slice that need not exist: python -m gpt1_jax.compile --config=FILE.py --topology=v5e:4x4."""

import json
import os
import sys
from typing import Any

from absl import flags

from gpt1_jax import config_flag
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.help import describe_settings
from gpt1_jax.overrides import from_dict
from gpt1_jax.wording import counted

_CONFIG = config_flag.define()
_TOPOLOGY = flags.DEFINE_string("topology", None, "GENERATION:SHAPE, such as v5e:4x4, v5p:2x2x1 or v6e:16x16")
_SLICES = flags.DEFINE_integer("slices", 1, "the number of such slices", 1, 2**20 - 1)
_SEARCH = flags.DEFINE_bool("search", False, "tries every mesh, each with the least remat that fits")
_JSON = flags.DEFINE_bool("json", False, "prints a JSON object for each compilation")


def main(_: list[str]) -> None:
    """Prints memory per device, FLOPs, collectives, and a step's estimated time and MFU."""
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise UserError("--config=FILE.py and --topology=GENERATION:SHAPE are both needed.")
    values = config_flag.read(_CONFIG)
    if values.get("finetune"):
        raise UserError(
            "--config is for fine-tuning, whose shapes depend on its data; name one for pre-training."
        )
    values["mesh"]["slices"] = _SLICES.value
    config = from_dict(values)

    # This must come before jax is imported.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from gpt1_jax.ahead.compiling import compile_step, find_devices, search

    devices = find_devices(_TOPOLOGY.value, _SLICES.value)
    tried = (
        search(config, _TOPOLOGY.value, devices)
        if _SEARCH.value
        else [compile_step(config, _TOPOLOGY.value, devices)]
    )
    print("Compiling takes minutes.", file=sys.stderr, flush=True)
    fitting, found = [], {}
    for found in tried:
        print(json.dumps(found) if _JSON.value else _row(found), flush=True)
        fitting += [found] if found["fits"] else []
    if _JSON.value:
        return
    if _SEARCH.value:
        found = min(fitting, key=lambda found: found["seconds"], default=found)
        print("best: " + _row(found) if fitting else "none fits")
    _details(found)


def _row(found: dict[str, Any]) -> str:
    mesh = " × ".join(f"{name} {size}" for name, size in found["mesh"].items())
    start = f"{found['topology']}  {mesh}  remat {found['remat']}  "
    memory = f"{found['memory'] / 1e9:.1f} of {found['memory_limit'] / 1e9:.1f} GB per device"
    if not found["fits"]:
        return f"{start}does not fit: {memory}; {found['advice']}"
    return f"{start}fits: {memory}; about {_ms(found['seconds'])} a step, MFU {found['mfu']:.0%}"


def _details(found: dict[str, Any]) -> None:
    print(f"{counted(found['parameters'], 'parameter')}, {found['flops'] / 1e12:.3g} TFLOP a step")
    if found["fits"]:
        print(
            "of a step: " + ", ".join(f"{part} {_ms(time)}" for part, time in found["parts"].items() if time)
        )
        for kind, sent in found["collectives"].items():
            hidden = f", {sent['hidden'] / 1e6:.1f} of them while it computes" if sent["hidden"] else ""
            print(f"{kind:20} {sent['count']:6}  a device sends {sent['bytes'] / 1e6:.1f} MB{hidden}")
    print(f"compiled in {found['compile_seconds']:.0f} s")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


if __name__ == "__main__":
    door(main, more=describe_settings)
