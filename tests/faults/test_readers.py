"""Damaged files end in rows or in a sentence, whoever reads them: `reader_fuzz` says how."""

import os
import random

import pytest
from faults import reader_fuzz


def test_damaged_files_end_in_rows_or_in_a_sentence() -> None:
    ended = reader_fuzz.run(random.Random(0), reader_fuzz.times(1500))
    assert ended["rows"] > 200 and ended["refused"] > 200


@pytest.mark.endurance
def test_so_they_do_for_minutes() -> None:
    """READER_FUZZ_SECONDS sets how long; READER_FUZZ_SEED where it begins."""
    duration = float(os.environ.get("READER_FUZZ_SECONDS", "60"))
    chance = random.Random(int(os.environ.get("READER_FUZZ_SEED", "1")))
    assert reader_fuzz.run(chance, reader_fuzz.seconds(duration)).total() > 0
