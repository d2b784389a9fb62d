"""What a run makes of the documents in its text: whether windows keep them apart, and which of them count for nothing.

Letters: B batch, T positions, N tokens of a window.
"""

from dataclasses import dataclass

import numpy as np

from gpt1_jax.config import DataConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Documents:
    """How the documents of a text are treated.

    Attributes:
        end: the piece that stands behind each document; None if that does not matter.
        apart: whether no position of a window attends to another document.
        restart: whether the positions of each document begin anew.
        left_out: int64 [·, 2], ascending ranges of the stream whose tokens, as targets, have weight 0; None for none.
    """

    end: int | None = None
    apart: bool = False
    restart: bool = False
    left_out: np.ndarray | None = None

    @classmethod
    def of(cls, data: DataConfig, tokenizer: Tokenizer, left_out: np.ndarray | None = None) -> "Documents":
        """Returns what a config says of them; `left_out` is what its file comes to in the text.

        Raises:
            UserError: the tokenizer does not mark where documents end.
        """
        check_marked(data, tokenizer)
        some = left_out if left_out is not None and len(left_out) else None
        return cls(tokenizer.end_id, data.mask_documents, data.restart_positions, some)

    @property
    def anew(self) -> int | None:
        """The piece behind which a text begins anew, so that nothing is seen of what is before it; None for none."""
        return self.end if self.apart else None

    def weigh(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Returns weights with 0 for documents that are left out; all others keep their bits.

        Args:
            weights: float32 [B, T].
            places: int64 [B, T], where in the stream the targets are.
        """
        if self.left_out is None:
            return weights
        begun, over = (np.searchsorted(edge, places, "right") for edge in self.left_out.T)
        return np.where(begun > over, np.float32(0), weights)

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Returns which inputs of a model that predicts the next token attend to each other, and their positions.

        An end piece that is read opens the next document, whose first token it thus predicts, as it does at the
        beginning of a stream or of a text that is scored. As a target, it is the last of the document that it ends. So
        each document is read as if it stood alone behind an end piece, and no token is predicted from another document.

        Args:
            tokens: int32 [..., T].

        Returns:
            int32 [..., T] each: groups and positions as in `Batch`; None for none.
        """
        if not self.apart:
            return None, None
        groups = np.cumsum(tokens == self.end, -1, dtype=np.int32)
        return groups, _restarted(groups) if self.restart else None

    def enclosed(self, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the same for a text between [CLS] and [SEP], of a model that fills masks; without `apart`, one group.

        Such a model sees both ways, so an end piece is the last of the document that it ends. [CLS] belongs to the
        first document and [SEP] to the last. Positions begin anew at 1, as behind a [CLS].

        Args:
            text: int32 [N].

        Returns:
            groups and positions, int32 [N + 2] each.
        """
        groups = np.zeros(len(text) + 2, np.int32)
        if self.apart and len(text):
            ends = text == self.end
            groups[1:-1] = np.cumsum(ends) - ends
            groups[-1] = groups[-2]
        if not self.restart:
            return groups, np.arange(len(groups), dtype=np.int32)
        return groups, np.append(np.int32(0), 1 + _restarted(groups[1:]))


WHOLE = Documents()


def check_marked(data: DataConfig, tokenizer: Tokenizer) -> None:
    """Checks that a tokenizer marks where documents end, if the config tells documents apart.

    Raises:
        UserError: it does not.
    """
    if tokenizer.end_id is not None:
        return
    told = f"and data.tokenizer={data.tokenizer} has no piece that ends one"
    if data.mask_documents:
        raise UserError(
            f"data.mask_documents=True keeps documents apart, {told}; set it to False, or another tokenizer, such as "
            "sentencepiece."
        )
    if data.without is not None:
        raise UserError(
            f"data.without={data.without} names documents, {told}; leave it out, or set another tokenizer, such as "
            "sentencepiece."
        )


def _restarted(groups: np.ndarray) -> np.ndarray:
    """Returns how far each position lies behind the first of its group, int32 [..., T]."""
    places = np.arange(groups.shape[-1], dtype=np.int32)
    begins = np.diff(groups, axis=-1, prepend=groups[..., :1]) != 0
    return places - np.maximum.accumulate(np.where(begins, places, 0), -1, dtype=np.int32)
