"""Wrong invocations of every command: what is typed, the exit code, and the words that the one line of error must have.

In {braces}: TINY and CUSTOM, configs of pre-training and fine-tuning with small settings; RUN and TUNED, runs of them;
DIGITS, a number of 5,000 digits; LONG, a text of 250,000 characters. Files lie in the working directory: see
`test_invocations.make_files`.
"""

from typing import NamedTuple

from gpt1_jax.config import schema


class Invocation(NamedTuple):
    """A command line behind `python -m gpt1_jax.`, how it ends, and words of its error."""

    line: str
    code: int
    words: tuple[str, ...]


def wrong(lines: str) -> list[Invocation]:
    """Invocations that end with 2, from lines of COMMAND LINE → WORDS | WORDS."""
    found = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        typed, _, words = line.partition(" → ")
        found.append(Invocation(typed, 2, tuple(word.strip() for word in words.split(" | "))))
    return found


# ── The command line itself ──────────────────────────────────────────────────────────────────────────────────

COMMANDS = (
    "main",
    "evaluate",
    "predict",
    "generate",
    "score",
    "audit",
    "tokenize",
    "convert",
    "prepare",
    "compile",
)

HELP = [
    Invocation(f"{command} {flag}", 0, ())
    for command in COMMANDS
    for flag in ("--help", "-h", "--helpshort", "--helpfull", "-?")
]

ANY_COMMAND = [
    invocation
    for command in COMMANDS
    for invocation in wrong(
        f"""
        {command} --nosuch=3 → --nosuch is not a flag of this command | --help
        {command} --nosuch → --nosuch is not a flag of this command
        {command} -x → -x is not a flag
        {command} --ÄÖ=3 → --ÄÖ is not a flag
        {command} --flagfile=nosuch → nosuch | No such file
        {command} --flagfile=. → Is a directory
        {command} --flagfile → --flagfile
        {command} --flagfile=latin1.txt → 'utf-8'
        {command} --verbosity=loud → --verbosity=loud
        """
    )
]

FLAGS = wrong(
    """
    main → --config is missing
    main --config → --config has no value
    main --config= → --config= is not a Python file
    main --config=absent.py → --config=absent.py | does not exist
    main --config=absent.py:tiny → absent.py does not exist
    main --config=absent → is not a Python file
    main --config=. → is not a Python file
    main --config=directory.py → is not a Python file
    main --config=text.txt → is not a Python file
    main --config=dangling.py → does not exist
    main --config=loop.py → loop.py
    main --config=s3://bucket/config.py → --config=s3://bucket/config.py is not a Python file
    main --config={LONG}.py → --config=xxx | …
    main --config=syntax.py → --config=syntax.py | line 1 | SyntaxError
    main --config=latin1.py → SyntaxError
    main --config=raises.py → line 2 | ValueError: my own
    main --config=imports.py → line 1 | nosuchmodule
    main --config=empty.py → get_config
    main --config=none.py → returns None | ConfigDict
    main --config=dict.py → ConfigDict
    main --config=endless.py → RecursionError
    main --config=opens.py → line 2 | nosuch.json
    main --config=short.py → is missing
    main --config=unknown.py → nosuch | not a key
    main --config=types.py → config.train.batch_size='8' | a whole number
    main --config=digits.py → config.seed= | out of range
    main --config=both.py → train.num_steps=5 | train.num_epochs=2 | set one of them to 0
    main --config=none.py:preset → positional argument
    main {TINY} --config=short.py → --config is given 2 times
    main --config.seed=3 → --config=FILE.py
    main --config.seed=3 {TINY} → --config.seed=3 | before
    main --config.seed → --config.seed has no value
    main {TINY} --config.seed → --config.seed has no value
    main {TINY} --config.seed= → --config.seed='' | a whole number
    main {TINY} --config.=3 → config
    main {TINY} --config..seed=3 → config
    main {TINY} --config.seed.x=3 → config.seed.x does not exist
    main {TINY} --config.model=3 → --config.model is a section
    main {TINY} --config.finetune=3 → --config.finetune is a section
    main {TINY} --config.finetune.task=cola → --config.finetune.task does not go with
    main {TINY} --noconfig.seed → --noconfig.seed is not a flag
    main {TINY} --config.model.nun_layers=3 → --config.model.nun_layers | did you mean | model.num_layers?
    main {TINY} --config.modle.num_layers=3 → did you mean | model.num_layers?
    main {TINY} --config.ÄÖ=3 → --config.ÄÖ is not a key
    main {TINY} --batch_size=4 → --batch_size is not a flag | did you mean --config.train.batch_size?
    main {TINY} --train.batch_size=4 → did you mean --config.train.batch_size?
    main {TINY} --learning_rate=4 → did you mean --config.optimizer.learning_rate?
    main {TINY} train.num_steps=4 → 'train.num_steps=4' | did you mean --config.train.num_steps?
    main {TINY} config.train.num_steps=4 → did you mean --config.train.num_steps?
    main {TINY} num_steps=4 → did you mean --config.train.num_steps?
    main {TINY} workdir=here → did you mean --workdir?
    main {TINY} --wrkdir=here → did you mean --workdir?
    main {TINY} extra → 'extra' belongs to no flag
    main {TINY} -- --workdir=here → '--workdir=here' belongs to no flag
    main {TINY} --workdir → --workdir
    main {TINY} --num_processes=x → --num_processes=x is not an integer
    main {TINY} --num_processes= → --num_processes= is not an integer
    main {TINY} --num_processes={DIGITS} → --num_processes=999 | …
    main {TINY} --process_id=1.5 → --process_id=1.5 is not an integer
    main {TINY} --coordinator=x → --coordinator
    main {TINY} --coordinator=localhost:1 --num_processes=2 → --process_id
    main {TINY} --coordinator=localhost:1 --num_processes=2 --process_id=2 → --process_id=2
    main {TINY} --coordinator=localhost:1 --num_processes=0 --process_id=0 → --num_processes=0
    main {TINY} --coordinator=localhost --num_processes=2 --process_id=0 → has no port
    main {TINY} --coordinator=localhost:99999 --num_processes=2 --process_id=0 → 65535
    main {TINY} --flagfile=flags.txt → --config.seed=-1 | out of range
    evaluate → --workdir is missing
    evaluate --workdir → --workdir
    evaluate {RUN} extra → 'extra'
    evaluate {RUN} --steps=x → --steps=x
    evaluate {RUN} --steps=1.5 → --steps=1.5
    evaluate {RUN} --steps=1,,2 → --steps=1,,2
    evaluate {RUN} --steps={DIGITS} → --steps=999 | …
    evaluate {RUN} --step=newest → --step='newest' | best, last
    evaluate {RUN} --step=1 --steps=all → --step=1 | --steps=all
    predict {TUNED} --input=good.jsonl --output=out.jsonl --step=-1 → --step='-1' | best, last
    generate {RUN} --prompt=a --step={DIGITS} → --step='999 | …
    predict → --workdir=RUN | --input | --output
    predict {TUNED} --input=good.jsonl → --output
    predict {TUNED} --output=out.jsonl → --input
    generate → --workdir is missing
    generate {RUN} extra → 'extra'
    generate {RUN} --json=maybe → --json=maybe is not true or false
    generate {RUN} --beyond_context=nosuch → --beyond_context=nosuch is not one of stop, slide, refuse
    tokenize → --workdir=RUN | --tokenizer
    tokenize {RUN} --tokenizer=openai:model → either
    tokenize {RUN} --decode=maybe → --decode=maybe is not true or false
    convert → IN and OUT are missing
    convert IN → OUT is missing
    convert IN OUT more → 'more' belongs to no flag
    convert IN OUT → --from=FORMAT and --to=FORMAT
    convert --from=openai IN OUT → --to=FORMAT
    convert --from=nosuch --to=openai IN OUT → --from=nosuch is not one of openai, huggingface, gpt1_jax
    convert --from= --to=openai IN OUT → --from= is not one of
    convert --from=openai --to=OPENAI IN OUT → --to=OPENAI is not one of
    convert --from=openai --to=gpt1_jax --num_heads=0 IN OUT → --num_heads=0
    convert --from=openai --to=gpt1_jax --num_heads=x IN OUT → --num_heads=x
    convert --from=openai --to=gpt1_jax --num_heads={DIGITS} IN OUT → --num_heads=999 | …
    convert --from=openai --to=gpt1_jax --num_heads=99999999999 IN OUT → --num_heads=99999999999
    convert --from=gpt1_jax --to=openai --step=1.5 IN OUT → --step='1.5' | best, last
    prepare → --source=SOURCE and --output=DIR
    prepare --source=demo → --output=DIR
    prepare --output=out → --source=SOURCE
    prepare --source=demo --output=out --vocab_size=0 → --vocab_size=0
    prepare --source=demo --output=out --vocab_size=-5 → --vocab_size=-5
    prepare --source=demo --output=out --vocab_size=1e3 → --vocab_size=1e3
    prepare --source=demo --output=out --vocab_size={DIGITS} → --vocab_size=999 | …
    prepare --source=demo --output=out --vocab_size=99999999999999999999 → --vocab_size=99999999999999999999
    prepare --source=demo --output=out --option=project=x → --option=project=x | --runner
    prepare --source=demo --output=out --split_seed=x → --split_seed=x
    prepare --source=demo --output=out --split_seed=-2 → --split_seed=-2
    compile → --config
    compile {TINY} → --topology
    compile --topology=v5e:2x2 → --config=FILE.py
    compile {TINY} --topology=nosuch → --topology=nosuch
    compile {TINY} --topology= → --topology=
    compile {TINY} --topology=v5e → --topology=v5e
    compile {TINY} --topology=v5e:x → --topology=v5e:x
    compile {TINY} --topology=v99:2x2 → --topology=v99:2x2 | v5e
    compile {TINY} --topology=v5e:2x2 --slices=0 → --slices=0
    compile {TINY} --topology=v5e:2x2 --slices=x → --slices=x
    compile {TINY} --topology=v5e:2x2 --slices=99999999999 → --slices=99999999999
    compile {TINY} --topology=v5e:2x2 --search=x → --search=x
    compile {CUSTOM} --topology=v5e:2x2 → fine-tuning
    """
)

# ── Every key of the config ──────────────────────────────────────────────────────────────────────────────────

_TEXTS = (
    "init_from",
    "data.source",
    "data.tokenizer",
    "data.cache_dir",
    "data.tfds_dir",
    "data.without",
    "train.profile_steps",
)


def _of_keys() -> list[Invocation]:
    found = []
    for key, about in schema().items():
        if key in _TEXTS or key.startswith("finetune."):
            continue
        if about.choices:
            found += wrong(f"main {{TINY}} --config.{key}=nosuch → --config.{key}='nosuch' is not one of")
            continue
        if about.kind is bool:
            found += wrong(
                f"main {{TINY}} --config.{key}=maybe → --config.{key}='maybe' is not true or false"
            )
            continue
        for text, word in (
            ("x", f"--config.{key}='x' is not a"),
            ("-1e999", f"--config.{key}="),
            ("{DIGITS}", "range"),
        ):
            found += wrong(f"main {{TINY}} --config.{key}={text} → {word}")
    return found


KEYS = _of_keys()

FIELDS = wrong(
    """
    main {TINY} --config.seed=1e3 → --config.seed='1e3' is not a whole number
    main {TINY} --config.seed=0x1f → a whole number
    main {TINY} --config.seed=True → a whole number
    main {TINY} --config.seed=4294967296 → out of range | below 4294967296
    main {TINY} --config.optimizer.learning_rate=1e300 → out of range
    main {TINY} --config.optimizer.learning_rate=nan → --config.optimizer.learning_rate=nan
    main {TINY} --config.optimizer.learning_rate=-inf → --config.optimizer.learning_rate=-inf
    main {TINY} --config.train.batch_size=100000000000000000000 → --config.train.batch_size= | out of range
    main {TINY} --config.train.num_steps=4294967296 → --config.train.num_steps=4294967296 is out of range
    main {TINY} --config.train.num_epochs=1e300 → --config.train.num_epochs=1e+300 is out of range
    main {TINY} --config.model.num_layers=1000000000000 → --config.model.num_layers=1000000000000 is out of range
    main {TINY} --config.model.unroll=1000000000000000000000000000000 → --config.model.unroll= | out of range
    main {TINY} --config.train.num_steps=5 --config.train.num_epochs=2 → --config.train.num_steps=5 | to 0
    main {TINY} --config.train.num_steps=0 → --config.train.num_steps=0 | leave nothing to do
    main {TINY} --config.model.d_model=30 --config.model.num_heads=4 → --config.model.d_model=30 | heads
    main {TINY} --config.train.accumulation=3 → --config.train.accumulation=3 | train.batch_size
    main {TINY} --config.train.profile_steps=x → --config.train.profile_steps=x | 10:15
    main {TINY} --config.train.profile_steps=1:{DIGITS} → --config.train.profile_steps=1:999 | …
    main {TINY} --config.train.profile_steps=5:1 → --config.train.profile_steps=5:1
    main {TINY} --config.mesh.tensor=0 → --config.mesh.tensor=0
    main {TINY} --config.mesh.data=-1 --config.mesh.fsdp=-1 → only one
    main {TINY} --config.mesh.data=1000 → 1000 | device
    main {TINY} --config.mesh.slices=3 → mesh
    main {TINY} --config.model.context_length=600000 → dropout tells apart
    main {TINY} --config.model.context_length=16000 → --config.model.context_length=16000 is too long
    main {TINY} --config.model.kind=lstm --config.model.num_layers=2 → --config.model.num_layers=2
    main {TINY} --config.train.num_epochs=999999999 → --config.train.num_epochs=1e+09 | can be counted
    main {TINY} --config.train.batch_size=16777212 → GB per device | --config.train.batch_size lower
    main {TINY} --config.model.num_layers=1000000 → GB per device | a smaller model
    main {TINY} --config.data.vocab_size=2 → --config.data.vocab_size=2 is too small
    main {TINY} --config.data.vocab_size=9999999 → --config.data.vocab_size=9999999 is too large
    main {TINY} --config.data.tokenizer= → --config.data.tokenizer=''
    main {TINY} --config.data.tokenizer=nosuch → --config.data.tokenizer='nosuch'
    main {TINY} --config.data.tokenizer={LONG} → --config.data.tokenizer='xxx | …
    main {TINY} --config.data.tokenizer=sentencepiece: → --config.data.tokenizer
    main {TINY} --config.data.tokenizer=sentencepiece:nosuch.model → nosuch.model
    main {TINY} --config.data.tokenizer=sentencepiece:text.txt → --config.data.tokenizer
    main {TINY} --config.data.tokenizer=openai:nosuch → --config.data.tokenizer
    main {TINY} --config.data.source= → --config.data.source=''
    main {TINY} --config.data.source=nosuch → --config.data.source='nosuch'
    main {TINY} --config.data.source=text: → --config.data.source
    main {TINY} --config.data.source=text:nosuch/*.txt → matches no file
    main {TINY} --config.data.source=text:empty.txt → --config.data.source
    main {TINY} --config.data.source=text:latin1.txt → not UTF-8
    main {TINY} --config.data.source=text:fifo.txt → fifo.txt
    main {TINY} --config.data.source=text:loop.txt → loop.txt
    main {TINY} --config.data.source=text:dangling.txt → dangling.txt
    main {TINY} --config.data.source=text:directory.txt → matches no file
    main {TINY} --config.data.source=text:deep.jsonl → deep.jsonl
    main {TINY} --config.data.source=text:digits.jsonl → digits.jsonl
    main {TINY} --config.data.source=text:surrogate.jsonl → surrogate.jsonl
    main {TINY} --config.data.source=tfds: → --config.data.source
    main {TINY} --config.data.source=tfds:nosuch → tfds:nosuch
    main {TINY} --config.data.source=tfds:nosuch --config.data.tfds_dir=text.txt → tfds:nosuch
    main {TINY} --config.init_from= → --config.init_from is empty; name a path
    main {TINY} --config.init_from=~nosuch → --config.init_from=~nosuch | home
    main {TINY} --config.init_from=nosuch → nosuch is not a run directory
    main {TINY} --config.init_from=text.txt → text.txt is not a run directory
    main {CUSTOM} --config.finetune.task=imdb → --config.finetune.task=imdb is not a task | cola
    main {CUSTOM} --config.finetune.task= → --config.finetune.task= lacks the task
    main {CUSTOM} --config.finetune.task=dprd → zero-shot
    main {CUSTOM} --config.finetune.task=cola → --config.data.source | train.tsv
    main {CUSTOM} --config.finetune.kind=nosuch → --config.finetune.kind='nosuch' is not one of
    main {CUSTOM} --config.finetune.scores=nosuch → --config.finetune.scores='nosuch' is not one of
    main {CUSTOM} --config.finetune.num_transfer_layers=9 → --config.finetune.num_transfer_layers=9
    main {CUSTOM} --config.finetune.num_transfer_layers=-2 → out of range
    main {CUSTOM} --config.finetune.max_examples=-1 → out of range
    main {CUSTOM} --config.finetune.auxiliary_weight=nan → out of range
    main {CUSTOM} --config.finetune.classifier_dropout=1 → out of range
    main {CUSTOM} --config.finetune.columns=x → --config.finetune.columns='x'
    main {CUSTOM} --config.finetune.columns=text=nosuch → nosuch
    main {CUSTOM} --config.model.d_model=64 → --config.model.d_model=32 | 64
    main {CUSTOM} --config.init_from=nosuch → nosuch is not a run directory
    main {CUSTOM} --config.data.source=files:missing.csv → missing.csv
    main {CUSTOM} --config.data.source=files:missing → missing
    main {CUSTOM} --config.data.source=files:empty.csv → empty.csv
    main {CUSTOM} --config.data.source=files:directory.txt → train
    main {CUSTOM} --config.data.source=files:text.txt → text.txt
    main {CUSTOM} --config.data.source=files:latin1.csv → UTF-8
    main {CUSTOM} --config.data.source=files:fifo.csv → fifo.csv
    main {CUSTOM} --config.data.source=nosuch → --config.data.source='nosuch'
    main --config={ROOT}/configs/finetune.py → --config=configs/finetune.py: lacks the task | cola
    main --config={ROOT}/configs/finetune.py:imdb → --config=configs/finetune.py:imdb is not a task
    main --config={ROOT}/configs/finetune.py:colla → did you mean cola?
    main --config={ROOT}/configs/finetune.py:cola → --config.init_from is missing
    main --config={ROOT}/configs/finetune.py:custom {INIT} → data.source='tfds' is not a source of this task
    main --config={ROOT}/configs/pretrain.py:gigantic → gigantic has no such preset | tiny | small
    main --config={ROOT}/configs/pretrain.py: --config.model.d_model=7 → --config.model.d_model=7
    """
)

# ── Every kind of path ───────────────────────────────────────────────────────────────────────────────────────

# What is named, and words of the error where a directory must be there.
_NO_DIRECTORY = {
    "nosuch": "nosuch",
    "nosuch/deep/er": "nosuch",
    "text.txt": "text.txt",
    "text.txt/x": "text.txt",
    "loop": "loop",
    "dangling": "dangling",
    "fifo": "fifo",
    "{NAME}": "xxx",
    "~nosuch/x": "~nosuch",
    "s3://bucket/x": "s3",
    "nosuch://bucket/x": "nosuch://",
    "''": "",
    "'line\nbreak'": "line\\nbreak",
    "ÄÖ中": "ÄÖ中",
}


def _of_paths() -> list[Invocation]:
    found = []
    for path, word in _NO_DIRECTORY.items():
        for line in (
            "evaluate --workdir={}",
            "generate --workdir={} --prompt=x",
            "predict --workdir={} --input=good.jsonl --output=out.jsonl",
            "tokenize --workdir={}",
            "main {{TINY}} --config.init_from={}",
            "convert --from=gpt1_jax --to=openai {} OUT",
            "convert --from=huggingface --to=gpt1_jax {} OUT",
        ):
            found.append(Invocation(line.format(path), 2, (word,)))
    # What a new directory cannot be made of.
    for path in (
        "text.txt",
        "text.txt/x",
        "loop",
        "fifo",
        "{NAME}",
        "~nosuch/x",
        "s3://bucket/x",
        "nosuch://bucket/x",
    ):
        word = _NO_DIRECTORY[path]
        for line in (
            "main {{TINY}} --workdir={}",
            "main {{TINY}} --config.data.cache_dir={}",
            "prepare --source=text:texts/*.txt --vocab_size=300 --output={}",
            "convert --from=gpt1_jax --to=openai {{IN}} {}",
        ):
            found.append(Invocation(line.format(path), 2, (word,)))
    return found


PATHS = _of_paths() + wrong(
    """
    predict {TUNED} --input=nosuch.jsonl --output=out.jsonl → --input | nosuch.jsonl
    predict {TUNED} --input=. --output=out.jsonl → --input | directory
    predict {TUNED} --input= --output=out.jsonl → --input
    predict {TUNED} --input=loop --output=out.jsonl → --input | loop
    predict {TUNED} --input=dangling --output=out.jsonl → --input | dangling
    predict {TUNED} --input=~nosuch/x --output=out.jsonl → ~nosuch
    predict {TUNED} --input=s3://bucket/x --output=out.jsonl → s3
    predict {TUNED} --input=text.txt --output=out.jsonl → line 1 of text.txt
    predict {TUNED} --input=latin1.txt --output=out.jsonl → latin1.txt
    predict {TUNED} --input=deep.jsonl --output=out.jsonl → deep.jsonl
    predict {TUNED} --input=digits.jsonl --output=out.jsonl → digits.jsonl
    predict {TUNED} --input=surrogate.jsonl --output=out.jsonl → surrogate.jsonl
    predict {TUNED} --input=good.jsonl --output=nosuch/out.jsonl → --output=nosuch/out.jsonl
    predict {TUNED} --input=good.jsonl --output=~nosuch/x → ~nosuch
    prepare --source=text:texts/*.txt --output= → --output is empty
    main {TINY} --workdir= → --workdir is empty
    main {TINY} --config.data.cache_dir= → --config.data.cache_dir is empty
    generate --workdir= --prompt=x → --workdir is empty
    prepare --source=nosuch --output=out → --source='nosuch'
    prepare --source= --output=out → --source=''
    prepare --source=text:nosuch --output=out → --source='text:nosuch'
    prepare --source=demo --output=out --tokenizer=nosuch → --tokenizer='nosuch'
    prepare --source=demo --output=out --tokenizer=sentencepiece:nosuch → --tokenizer
    prepare --source=tfds:nosuch --output=out --tfds_dir=nosuch → --source='tfds:nosuch'
    tokenize --workdir=texts → texts is not a run directory
    tokenize --tokenizer= → --tokenizer=''
    tokenize --tokenizer=nosuch → --tokenizer='nosuch'
    tokenize --tokenizer=sentencepiece → --tokenizer=sentencepiece
    tokenize --tokenizer=sentencepiece:nosuch.model → --tokenizer | nosuch.model
    tokenize --tokenizer=sentencepiece:text.txt → --tokenizer
    tokenize --tokenizer=sentencepiece:. → --tokenizer
    tokenize --tokenizer=sentencepiece:loop → --tokenizer | loop
    tokenize --tokenizer=openai:nosuch → --tokenizer
    tokenize --tokenizer=openai:. → --tokenizer
    tokenize --tokenizer={LONG} → --tokenizer='xxx | …
    convert --from=gpt1_jax --to=openai {IN} texts → OUT= | exists already
    convert --from=gpt1_jax --to=gpt1_jax {IN} OUT --num_heads=3 → --num_heads=3
    convert --from=openai --to=gpt1_jax texts OUT → texts
    convert --from=huggingface --to=gpt1_jax texts OUT → texts
    """
)

# ── With a model in memory ───────────────────────────────────────────────────────────────────────────────────

USE = wrong(
    """
    generate {RUN} --prompt=a --max_new_tokens=0 → --max_new_tokens=0
    generate {RUN} --prompt=a --num_samples=1000000000 → --num_samples=1000000000
    generate {RUN} --prompt=a --temperature=nan → --temperature=nan
    generate {RUN} --prompt=a --stop=x → --stop=x
    evaluate {RUN} --source=nosuch → --source
    evaluate {RUN} --zero_shot=imdb → --zero_shot=imdb is not a task | cola
    evaluate {RUN} --steps=77 → 77
    evaluate {RUN} --step=77 → 77
    evaluate {TUNED} --source=files:missing.csv → --source | missing.csv
    convert --from=gpt1_jax --to=gpt1_jax {IN} OUT --tokenizer=nosuch → --tokenizer
    predict {TUNED} --input=good.jsonl --output=s3://bucket/x → s3
    predict {TUNED} --input=good.jsonl --output=nosuch://bucket/x → nosuch://
    predict {TUNED} --input=good.jsonl --output=text.txt/x → text.txt
    predict {RUN} --input=good.jsonl --output=out.jsonl → not fine-tuned
    """
)

NUMBERS = [
    invocation
    for flag in ("max_new_tokens", "top_k", "num_beams", "num_samples", "seed")
    for text in ("", "x", "1.5", "nan", "{DIGITS}")
    for invocation in wrong(f"generate {{RUN}} --prompt=a --{flag}={text} → --{flag}= | an integer")
] + [
    invocation
    for flag in ("temperature", "top_p", "repetition_penalty", "length_penalty")
    for text in ("", "x", "1,5")
    for invocation in wrong(f"generate {{RUN}} --prompt=a --{flag}={text} → --{flag}={text} is not a number")
]

ALL = HELP + ANY_COMMAND + FLAGS + KEYS + FIELDS + PATHS + NUMBERS  # no model is read for these
# Tried each time; the others are their likes.
OFTEN = HELP[::5] + ANY_COMMAND[:18] + FLAGS + KEYS[::4] + FIELDS + PATHS[::4] + NUMBERS[::4]
