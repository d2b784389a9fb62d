"""Curves, points and tables of counts as SVG and HTML that need no script, font or file beside them.

Colors are the page's CSS variables, so that light, dark and print have their own.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

# In the units of the pictures, which are about a phone's pixels.
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 8, 10, 24
# More points than the picture has pixels show nothing more.
_MOST_POINTS = 300
COLORS = 8

Points = Sequence[tuple[float, float]]


class Series(NamedTuple):
    """A curve: its name, the number of its color from 0, its points, and whether it is dashed."""

    name: str
    color: int
    points: Points
    dashed: bool = False


class Level(NamedTuple):
    """A horizontal line for comparison: its name and its value."""

    name: str
    value: float


def chart(title: str, series: Sequence[Series], lines: Sequence[Level] = (), scatter: bool = False) -> str:
    """Returns a figure of curves against the step, or of single points."""
    drawn = [s._replace(points=s.points if scatter else _thinned(s.points)) for s in series if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points] + [line.value for line in lines]
    across, down = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(*xs, *across), max(*xs, *across)
    y_low, y_high = min(*ys, *down), max(*ys, *down)

    def place(x: float, y: float) -> tuple[float, float]:
        # What is the same everywhere lies in the middle.
        right = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in down:
        _, at = place(x_low, y)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in across:
        at, _ = place(x, y_low)
        anchor = "end" if at > _WIDTH - 24 else "middle"
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{number(x)}</text>')
    for line in lines:
        _, at = place(x_low, line.value)
        parts.append(f'<path class="level" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
    for name, color, points, dashed in drawn:
        places = [place(x, y) for x, y in points]
        if scatter or len(places) == 1:
            marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in places)
            parts.append(f'<g class="dots c{color % COLORS}"><title>{escape(name)}</title>{marks}</g>')
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            kind = f"curve c{color % COLORS}{' dashed' * dashed}"
            parts.append(f'<path class="{kind}" d="M{path}"><title>{escape(name)}</title></path>')
    legend = "".join(
        f'<li class="c{s.color % COLORS}{" dashed" * s.dashed}">{escape(s.name)}</li>' for s in drawn
    )
    legend += "".join(f'<li class="level">{escape(line.name)} {number(line.value)}</li>' for line in lines)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</svg>"
        f'<ul class="legend">{legend}</ul></figure>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Returns a table of plain texts; its first column names the rows."""
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def confusion(counts: Sequence[tuple[str, str, int]]) -> str:
    """Returns the table of (label, predicted, how many); a darker cell has a greater share of its row."""
    names = sorted({name for a, b, _ in counts for name in (a, b)})
    found = {(a, b): count for a, b, count in counts}
    rows = ""
    for label in names:
        total = sum(found.get((label, other), 0) for other in names) or 1
        cells = ""
        for other in names:
            count = found.get((label, other), 0)
            kind = "right" if label == other else "wrong"
            cells += f'<td class="{kind}" style="--share:{count / total:.2f}">{count}</td>'
        rows += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return (
        '<div class="wide"><table class="confusion"><thead><tr><td>label ↓ predicted →</td>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers that lie within the range, or its ends if it has none."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 3)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)][:8]


def number(value: float) -> str:
    """Returns a number in a few characters, such as 0.25, 3e-05 or 120k."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:.3g}G"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.4g}"


def _thinned(points: Points) -> Points:
    """Returns at most `_MOST_POINTS` points: means of neighbours, so that no spike is hidden by chance."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]
