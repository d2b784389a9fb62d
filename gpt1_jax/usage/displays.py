"""Results that display themselves: dictionaries and lists that a notebook shows as tables, and a console as lines."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.wording import counted

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

# A cell of a table has this many characters at most, and a table this many rows.
_CELL = 60
_ROWS = 50
_STYLE = "text-align: left; vertical-align: top"
# A word this surprising has the darkest ground.
_BITS = 20.0


class Record(dict[str, Any]):
    """A dictionary that displays itself: a line a key."""

    def __repr__(self) -> str:
        """Returns a line for each key."""
        width = max(map(len, self), default=0)
        return "\n".join(f"{key:<{width}}  {_cell(value)}" for key, value in self.items()) or "{}"

    def _repr_html_(self) -> str:
        rows = [(html.escape(key), _html(value)) for key, value in self.items()]
        return _table(
            [f"<th style='{_STYLE}'>{key}</th><td style='{_STYLE}'>{cell}</td>" for key, cell in rows]
        )


class Records(list[Any]):
    """A list of dictionaries that displays itself: a line for each, with a column for each key."""

    def __repr__(self) -> str:
        """Returns a line for each member, below the names of the columns."""
        columns = self._columns()
        if not columns:
            return list.__repr__(self)
        table = [columns, *([_cell(_of(row, key)) for key in columns] for row in self[:_ROWS])]
        widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
        lines = [
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join(lines + self._more())

    def _repr_html_(self) -> str:
        columns = self._columns()
        head = "".join(f"<th style='{_STYLE}'>{html.escape(key)}</th>" for key in columns)
        rows = [
            "".join(f"<td style='{_STYLE}'>{_html(_of(row, key))}</td>" for key in columns)
            for row in self[:_ROWS]
        ]
        return _table([head, *rows]) + "".join(f"<p>{line}</p>" for line in self._more())

    def _columns(self) -> list[str]:
        """Returns the keys of all members; a member that is a list makes up a single column."""
        return list(
            dict.fromkeys(key for row in self for key in (row if isinstance(row, Mapping) else ("",)))
        )

    def _more(self) -> list[str]:
        return [f"… and {len(self) - _ROWS:,} more"] if len(self) > _ROWS else []


def display(found: Any) -> Any:
    """Returns results in the form that displays itself; they are equal to what they were, and JSON writes the same."""
    return Records(found) if isinstance(found, list) else Record(found)


def facts_of(trained: "TrainedRun") -> list[str]:
    """Returns what a run is: "pre-trained", "4,240,384 parameters", "step 1,500", "sentencepiece of 4,096 pieces"."""
    task, pieces = trained.task, trained.tokenizer.vocab_size
    parameters = parameter_count(trained.params, pieces if task is None else pieces + SPECIALS)
    return [
        "pre-trained" if task is None else f"fine-tuned on {task.name} ({task.kind})",
        counted(parameters, "parameter"),
        f"step {trained.step:,}",
        f"{trained.config.data.tokenizer} of {counted(pieces, 'piece')}",
    ]


def _of(row: Any, key: str) -> Any:
    return row.get(key, "") if isinstance(row, Mapping) else row


def _cell(value: Any) -> str:
    """Returns a value on one short line."""
    text = " ".join(_spelled(value).split())
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _spelled(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, Mapping) and {"text", "probability"} <= value.keys():
        return f"{value['text']} {value['probability']:.3f}"
    if isinstance(value, Mapping) and {"text", "bits"} <= value.keys():
        return f"{value['text']} –" if value["bits"] is None else f"{value['text']} {value['bits']:.1f}"
    # A sample of generation, or an entity.
    if isinstance(value, Mapping) and "text" in value:
        return f"{value['label']}: {value['text']}" if "label" in value else str(value["text"])
    if isinstance(value, Mapping):
        members = [*value.items()]
        if all(isinstance(member, float) for _, member in members):
            # Of many classes, the most probable ones are seen.
            members.sort(key=lambda item: -item[1])
        return ", ".join(f"{key} {_spelled(member)}" for key, member in members)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_spelled, value))
    return str(value)


def _html(value: Any) -> str:
    """Returns a value as HTML, whole: words on a ground that is the darker the more surprising they are."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(word, Mapping) and "bits" in word for word in value)
    ):
        return " ".join(map(_word, value))
    return html.escape(_spelled(value)).replace("\n", "<br>")


def _word(word: Mapping[str, Any]) -> str:
    bits = word["bits"]
    told = "not scored" if bits is None else f"{bits:.1f} bits"
    ground = f"background: rgba(220, 80, 40, {min((bits or 0) / _BITS, 1) * 0.6:.2f})"
    return f"<span title='{told}' style='{ground}'>{html.escape(word['text'])}</span>"


def _table(rows: Sequence[str]) -> str:
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
