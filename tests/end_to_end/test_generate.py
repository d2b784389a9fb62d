"""Continuing text as a user does it: flags, lines of input, JSON, and Python."""

import json
from pathlib import Path

import pytest
from command_support import Runner

import gpt1_jax

PROMPT = "the old song"


def test_json_tells_all_of_a_sample_and_python_says_the_same(runner: Runner, undisturbed: Path) -> None:
    flags = ("--json", "--max_new_tokens=4", "--num_samples=2", "--seed=5", f"--prompt={PROMPT}")
    code, out, err = runner.call("generate", f"--workdir={undisturbed}", *flags)
    assert code == 0, err
    found = json.loads(out)
    run = gpt1_jax.load(str(undisturbed))
    assert found["prompt"] == PROMPT
    assert found["prompt_token_ids"] == run.encode(PROMPT)
    assert len(found["samples"]) == 2
    for sample in found["samples"]:
        assert set(sample) == {"token_ids", "text", "logprobs", "finish_reason"}
        assert len(sample["token_ids"]) == len(sample["logprobs"]) == 4
        assert sample["text"] == run.decode(sample["token_ids"])
        assert sample["finish_reason"] == "length"
    again = run.generate(PROMPT, max_new_tokens=4, num_samples=2, seed=5)
    for sample, other in zip(found["samples"], again["samples"], strict=True):
        assert sample["token_ids"] == other["token_ids"]
        assert sample["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)


def test_text_is_written_behind_its_prompt(runner: Runner, undisturbed: Path) -> None:
    flags = (f"--workdir={undisturbed}", "--temperature=0", "--max_new_tokens=5")
    code, out, err = runner.call("generate", *flags, f"--prompt={PROMPT}")
    assert code == 0, err
    (sample,) = gpt1_jax.load(str(undisturbed)).generate(PROMPT, temperature=0, max_new_tokens=5)["samples"]
    assert out == f"{PROMPT}{sample['text']}\n"
    code, out, err = runner.call("generate", *flags, "--num_beams=3", "--num_samples=2", f"--prompt={PROMPT}")
    assert code == 0, err
    assert out.count(PROMPT) == 2


def test_each_line_of_input_is_a_prompt(runner: Runner, undisturbed: Path) -> None:
    flags = (f"--workdir={undisturbed}", "--json", "--temperature=0", "--max_new_tokens=3")
    code, out, err = runner.call("generate", *flags, text="the old\na river\n")
    assert code == 0, err
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["the old", "a river"]


def test_a_stop_is_a_samples_last_token_and_no_text(undisturbed: Path) -> None:
    run = gpt1_jax.load(str(undisturbed))
    (free,) = run.generate(PROMPT, temperature=0, max_new_tokens=6)["samples"]
    stop = free["token_ids"][2]
    (sample,) = run.generate(PROMPT, temperature=0, max_new_tokens=6, stop=(stop,))["samples"]
    count = free["token_ids"].index(stop) + 1
    assert sample["token_ids"] == free["token_ids"][:count]
    assert sample["text"] == run.decode(free["token_ids"][: count - 1])
    assert sample["finish_reason"] == "stop"


def test_several_prompts_and_an_empty_one(undisturbed: Path) -> None:
    run = gpt1_jax.load(str(undisturbed))
    first, second = run.generate([PROMPT, ""], temperature=0, max_new_tokens=3)
    assert first["samples"] == run.generate(PROMPT, temperature=0, max_new_tokens=3)["samples"]
    assert second["prompt_token_ids"] == [run.tokenizer.end_id]


def test_ids_are_continued_like_their_text(undisturbed: Path) -> None:
    run = gpt1_jax.load(str(undisturbed))
    of_text = run.generate(PROMPT, temperature=0, max_new_tokens=3)
    assert run.generate(run.encode(PROMPT), temperature=0, max_new_tokens=3) == of_text
    assert run.generate([]) == run.generate([], num_beams=2) == []


def test_a_sample_stands_behind_every_evaluation(runner: Runner, tmp_path: Path) -> None:
    out = runner.run(tmp_path / "run", **{"train.num_steps": 4, "train.eval_every": 2})
    assert [line.split("  ")[:2] for line in out.splitlines() if "  sample  " in line] == [
        ["step 2", "sample"],
        ["step 4", "sample"],
    ]


def test_lines_of_input_draw_as_a_list_of_prompts(runner: Runner, undisturbed: Path) -> None:
    prompts = ["the old", "", "the old", "\N{GREEK SMALL LETTER MU}"]
    flags = (f"--workdir={undisturbed}", "--max_new_tokens=5", "--num_samples=2", "--seed=3")
    code, out, err = runner.call("generate", *flags, "--json", text="\ufeff" + "\r\n".join(prompts) + "\r\n")
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    listed = gpt1_jax.load(undisturbed).generate(prompts, max_new_tokens=5, num_samples=2, seed=3)
    assert [entry["prompt"] for entry in found] == prompts
    for one, other in zip(found, listed, strict=True):
        assert [sample["token_ids"] for sample in one["samples"]] == [
            sample["token_ids"] for sample in other["samples"]
        ]
    assert listed[0]["samples"][0]["token_ids"] != listed[2]["samples"][0]["token_ids"]


def test_what_is_streamed_is_the_text_without_its_stop(runner: Runner, undisturbed: Path) -> None:
    run = gpt1_jax.load(undisturbed)
    (free,) = run.generate(PROMPT, temperature=0, max_new_tokens=6)["samples"]
    stop = free["token_ids"][2]
    (sample,) = run.generate(PROMPT, temperature=0, max_new_tokens=6, stop=[stop])["samples"]
    flags = ("--temperature=0", "--max_new_tokens=6", f"--stop={stop}", f"--prompt={PROMPT}")
    code, out, err = runner.call("generate", f"--workdir={undisturbed}", *flags)
    assert (code, out) == (0, f"{PROMPT}{sample['text']}\n"), err
    assert sample["finish_reason"] == "stop" and len(sample["text"]) < len(free["text"])


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], "--workdir"),
        (["--workdir=nowhere", "--prompt=a"], "nowhere"),
        (["--workdir={run}", "--prompt=a", "--top_p=2"], "top_p=2.0"),
        (["--workdir={run}", "--prompt=a", "--stop=word"], "--stop=word"),
        (["--workdir={run}", "--prompt=a\udcff"], "--prompt='a"),
        (["--workdir={run}", "--prompt=a", "--beyond_context=never"], "beyond_context"),
        (["--workdir={run}", "--prompt=a", "--max_new_tokens=20", "--beyond_context=refuse"], "16"),
    ],
    ids=["no run named", "no run there", "setting", "stop", "no UTF-8", "choice", "no room"],
)
def test_wrong_input_is_a_sentence(runner: Runner, undisturbed: Path, flags: list[str], names: str) -> None:
    code, out, err = runner.call("generate", *(flag.format(run=undisturbed) for flag in flags))
    assert code == 2
    assert names in err and "Traceback" not in err
    assert out == ""
