"""Which examples of an epoch share a batch: a function of the rule, of the examples' lengths and labels, and of chance.

Letters: N examples, B batch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt1_jax.tasks.encoded import EncodedExamples

Batching = Literal["shuffled", "bucketed", "pools"]
Remainder = Literal["spread", "dropped"]

# Under the rule "pools", examples are sorted by length within this many batches.
POOL_BATCHES = 50
# Under the rule "bucketed", the noise of an example's place reaches over this many batches. Of the pairs in a batch of
# 32, about 3 % then meet again in the next epoch.
_NOISE_BATCHES = 32
# Scores count as classes of this number, so that batches have their share of low and high ones.
_SCORE_STRATA = 8


@dataclass(frozen=True)
class Grouping:
    """How the examples of an epoch are divided into batches.

    Attributes:
        rule: "shuffled" draws each batch from all examples. "bucketed" gives a batch examples of similar length, in
            company that is drawn anew each epoch, and its share of every class. "pools", the rule of earlier runs,
            sorts within pools of POOL_BATCHES batches; the last batch of an epoch may then be small, whatever
            `remainder` says.
        remainder: what becomes of examples that fill no batch: "spread" makes batches whose sizes differ by one at
            most, "dropped" leaves examples out, other ones each epoch, unless there are too few for one batch.
        batch_size: B, the most examples of a batch.
    """

    rule: Batching
    remainder: Remainder
    batch_size: int

    def batches(self, examples: int) -> int:
        """Returns the number of batches in an epoch of N examples."""
        whole, rest = divmod(examples, self.batch_size)
        drops = self.remainder == "dropped" and self.rule != "pools" and whole > 0
        return whole + (rest > 0 and not drops)

    def share(self, size: int, examples: int) -> float:
        """Returns what a batch of some size weighs, if one of the mean size weighs 1."""
        if self.rule == "pools" or self.remainder == "dropped":
            return 1.0
        return size * self.batches(examples) / examples

    def epoch(
        self, lengths: np.ndarray, strata: np.ndarray, generator: np.random.Generator
    ) -> list[np.ndarray]:
        """Returns the numbers of the examples in each batch of an epoch.

        Args:
            lengths: int [N], of the examples.
            strata: int [N], the class of each, of which "bucketed" gives every batch its share.
            generator: draws what is left to chance.
        """
        order = generator.permutation(len(lengths))
        if self.rule == "pools":
            batches = self._pools(order, lengths)
        else:
            count = self.batches(len(order))
            order = order[: count * self.batch_size]
            if self.rule == "bucketed":
                noise = _NOISE_BATCHES * self.batch_size / len(order)
                order = order[_by_length(lengths[order], strata[order], noise, generator)]
            batches = np.array_split(order, count)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _pools(self, order: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        batches = []
        pool = POOL_BATCHES * self.batch_size
        for pool_start in range(0, len(order), pool):
            examples = order[pool_start : pool_start + pool]
            examples = examples[np.argsort(lengths[examples], kind="stable")]
            batches += [examples[i : i + self.batch_size] for i in range(0, len(examples), self.batch_size)]
        return batches


def find_strata(examples: EncodedExamples) -> np.ndarray:
    """Returns the class of each example, int64 [N], if examples have one: scores count as classes by their rank."""
    if examples.form != "whole":
        return np.zeros(len(examples), np.int64)
    if examples.labels.shape[1] > 1:
        return examples.labels.argmax(-1)
    rank = np.argsort(np.argsort(examples.labels[:, 0], kind="stable"))
    return rank * _SCORE_STRATA // max(len(rank), 1)


def _by_length(
    lengths: np.ndarray, strata: np.ndarray, noise: float, generator: np.random.Generator
) -> np.ndarray:
    """Returns an order of increasing length, but for noise, in which every stretch has its share of each stratum.

    Each stratum is sorted by itself, and its examples are dealt out evenly over the whole.

    Args:
        lengths, strata: int [N], in an order that is random among equals.
        noise: the most by which an example leaves its place, as a fraction of the whole.
        generator: draws the noise.
    """
    place = np.empty(len(lengths))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        members = members[np.argsort(lengths[members], kind="stable")]
        noisy = np.arange(len(members)) / len(members) + noise * generator.random(len(members))
        place[members[np.argsort(noisy)]] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(place)
