"""The structure of a run's model as a picture: the left of the paper's Figure 1, with the sizes of its config."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from gpt1_jax.config import ModelConfig
from gpt1_jax.wording import counted

_WIDTH, _CENTER = 360, 180
_BOX, _GAP, _BRANCH = 30, 16, 30
_LEFT, _RIGHT = 70, 290

# Colors for a picture that stands alone; a page's own style goes before.
STYLE = """
.structure { color: #1d2327; background: none; font: 12px system-ui, sans-serif; }
.structure rect { fill: #eef2f6; stroke: #8a97a5; }
.structure .frame { fill: none; stroke-dasharray: 4 3; }
.structure .add { fill: #fff; stroke: #8a97a5; }
.structure path { fill: none; stroke: #8a97a5; }
.structure text { fill: #1d2327; text-anchor: middle; }
.structure .small { font-size: 10.5px; fill: #56626e; }
@media (prefers-color-scheme: dark) {
  .structure rect { fill: #26303a; stroke: #66727e; }
  .structure .add { fill: #151a1f; stroke: #66727e; }
  .structure path { stroke: #66727e; }
  .structure text { fill: #e6e9ec; }
  .structure .small { fill: #a3adb6; }
}
"""


class _Step(NamedTuple):
    """What the drawing does next, from below to above: "box", "branch" (the residual leaves), or "add" (it returns)."""

    kind: str
    name: str = ""
    note: str = ""


def draw_structure(model: ModelConfig, pieces: int) -> str:
    """Returns the SVG of a model with a vocabulary of `pieces` pieces; it may stand alone or in a page."""
    below, block, above = _steps(model, pieces)
    # From below, at 0, upwards.
    parts, y = [_text(_CENTER, -10, "tokens")], -26.0
    for steps in (below, block, above):
        start = y
        drawn, y = _draw(steps, y)
        if steps is block:
            y -= 8
            frame = (
                f'<rect class="frame" x="36" y="{y:.0f}" width="288" height="{start - y - 4:.0f}" rx="8"/>'
            )
            parts.append(frame + drawn + _text(_RIGHT + 15, y + 18, f"× {model.num_layers}"))
            parts.append(_line(_CENTER, y + 8, y - 8))
            y -= 8
        else:
            parts.append(drawn)
    parts.append(
        _text(_CENTER, y - 6, f"probabilities of the {'next token' if model.causal else 'masked tokens'}")
    )
    layers = f"{model.num_layers} layer{'s' * (model.num_layers > 1)}"
    title = f"{'Decoder' if model.causal else 'Encoder'} of {layers}, {model.norm}-norm"
    if model.kind == "lstm":
        title = "LSTM"
    view = f"0 {y - 24:.0f} {_WIDTH} {24 - y:.0f}"
    return (
        f'<svg class="structure" xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" '
        f'aria-label="{title}"><style>{STYLE}</style><title>{title}</title>{"".join(parts)}</svg>'
    )


def _steps(model: ModelConfig, pieces: int) -> tuple[list[_Step], list[_Step], list[_Step]]:
    """Returns what is drawn below the block, in it and above it."""
    width, length = model.d_model, model.context_length
    embeddings = f"{counted(pieces, 'piece')}" + f" + {counted(length, 'position')}" * (model.kind != "lstm")
    if model.token_types:
        embeddings += f" + {counted(model.token_types, 'type')}"
    below = [_Step("box", f"Embeddings, {width:,} wide", embeddings)]
    if model.embedding_norm:
        below.append(_Step("box", "Layer norm"))
    output = _Step("box", "Softmax over the token table", f"{width:,} → {pieces:,}, tied to the embeddings")
    if model.kind == "lstm":
        network = _Step("box", "LSTM", counted(model.d_ff, "unit"))
        return below, [network], [_Step("box", "Projection"), output]
    heads = f"{counted(model.num_heads, 'head')} of {width // model.num_heads}"
    attention = _Step("box", "Masked self-attention" if model.causal else "Self-attention", heads)
    feed = _Step("box", "Feed forward", f"{width:,} → {model.d_ff:,} → {width:,}, {model.activation}")
    norm, branch, add = _Step("box", "Layer norm"), _Step("branch"), _Step("add")
    if model.norm == "pre":
        block = [branch, norm, attention, add, branch, norm, feed, add]
        return below, block, [_Step("box", "Layer norm"), output]
    block = [branch, attention, add, norm, branch, feed, add, norm]
    if model.causal:
        return below, block, [output]
    transform = _Step("box", "Transform", f"{width:,} → {width:,}, {model.activation}, layer norm")
    return below, block, [transform, output]


def _draw(steps: Sequence[_Step], y: float) -> tuple[str, float]:
    """Draws steps upwards from y; returns the parts and where they end."""
    parts, left = [], 0.0
    for step in steps:
        if step.kind == "branch":
            parts.append(_line(_CENTER, y, y - 8))
            y -= 8
            left = y
        elif step.kind == "add":
            parts.append(_line(_CENTER, y, y - _GAP + 4))
            y -= _GAP - 4
            parts.append(f'<path d="M{_CENTER} {left:.0f}H{_LEFT - 16}V{y - 8:.0f}H{_CENTER - 8}"/>')
            parts.append(
                f'<circle class="add" cx="{_CENTER}" cy="{y - 8:.0f}" r="8"/>{_text(_CENTER, y - 4, "+")}'
            )
            y -= 16
        else:
            size = _BOX + 10 * bool(step.note)
            parts.append(_line(_CENTER, y, y - _GAP + 4))
            y -= _GAP - 4 + size
            parts.append(
                f'<rect x="{_LEFT}" y="{y:.0f}" width="{_RIGHT - _LEFT}" height="{size}" rx="5"/>'
                + _text(_CENTER, y + (17 if step.note else 19), step.name)
                + (_text(_CENTER, y + 32, step.note, small=True) if step.note else "")
            )
    parts.append(_line(_CENTER, y, y - 8))
    return "".join(parts), y - 8


def _line(x: float, start: float, end: float) -> str:
    return f'<path d="M{x:.0f} {start:.0f}V{end:.0f}"/>'


def _text(x: float, y: float, text: str, small: bool = False) -> str:
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{kind}>{escape(text)}</text>'
