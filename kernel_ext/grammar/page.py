"""`docs/magics.md`, made from the grammar: `python -m atoll.kernel_ext.grammar.page > docs/magics.md`.

A test compares the page with what this makes, so that neither says what the other does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from atoll import option_schema
from atoll.kernel_ext.grammar.schema import NAMES, PLACE, RUN, Grammar, Option
from atoll.kernel_ext.grammar.texts import usage

_HEAD = """\
# The magics

`%load_ext atoll` adds them. Each says the same with a question mark (`%%remote?`), and completes its words with Tab:
options, and what there is to choose from: nodes, actors, types of GPU, cells. This page is made from the same
declaration by which lines are read.

## How a line reads

    %%remote fit gpu=1 mem={2 * gigabyte} out=model,score bg
             ─┬─ ──┬── ────────┬───────── ───────┬─────── ─┬
             name  option=value, in any order              flag

`--gpu 1`, `--gpu=1` and `--bg` mean the same as `gpu=1` and `bg`. A value in braces is Python: `cpu={n_cores}`. A value
with spaces stands in quotes: `or="gpu=H100 mem=80G"`. Times are written `90`, `30s`, `10m`, `1h30m`; sizes `512M`,
`20G`. What is not understood is told in one line, with what would be right; nothing is sent then.
"""

_MEANINGS = """\
## What the options do

**`gpu=A100:2`** asks for two devices whose model's name has `A100` in it; `gpu=A100,H100` for one of either. The
devices are the cell's alone, and all that it sees. `gpu_mem=20G` asks for a share of one device as large as that needs.

**`node=`** names a node: `node=big` there and nowhere else, `node=~big` rather there, `node=!big` anywhere else.
`near=llm` is rather beside the actor `llm`, or beside the object that the cache calls so.

**`or=`** says what will do as well, and may stand there several times, the best first:
`%%remote gpu=A100 or=gpu=H100 or="cpu=16 mem=32G"`.

**`env=`** changes what the cell's process has beyond the kernel's environment: variables,
`env=OMP_NUM_THREADS=4,DEBUG=1`; a file of requirements, `env=requirements.txt`; or all that a `runtime_env` can say:
`env={"pip": ["humanize"], "env_vars": {"A": "1"}}`. Workers of one environment are kept warm together.

**`timeout=10m`** interrupts a cell that has run so long, where it is, as the stop button does: names that it had set
come back, the traceback shows the line, and the error is a `CellTimeoutError`, which is a `TimeoutError`. The time
begins with the cell's first line: waiting for a GPU does not count. A cell that goes on for five seconds more is ended
with its worker; an actor is not.

**`queue=train`** lets the background cells that name it, of all notebooks, run one after the other, in the order in
which they were sent, also when the kernels that sent them have ended. A cell that fails does not hold up the next one.
A cell that is waited for waits for those that are in the queue, and holds up none.

**`retries=2`** runs a cell again when its worker dies: killed, out of memory, its node gone. A cell has effects and has
shown output, so it is not run again unless it says so. An exception is an answer, and is never tried again.
What the attempts before have shown stays, and a line says which attempt this is.

**`priority=`** orders all that waits, **`deadline=`** what one notebook waits for. **`preemptible`** takes what nobody
else wants, and is ended and run anew when somebody does.

**`local`** runs the cell in the kernel, with its own lines and traceback, as if the first line were not there.
**`dry`** says where the cell would run, or why it would wait and what would let it begin, and runs nothing.
**`quiet`** shows no status line.
**`notify`**, with `bg`, has the browser tell when the cell is done, if nobody looks at the page then. A page may do so
only when you have allowed it: the cell's line has a button for that, and nothing asks you by itself. Without it the
next cell that is executed says in a line what has ended.

**Inside of an actor** (`on=llm`) the options that say where a cell runs have no meaning: it uses what the actor holds,
in the actor's process, one cell after the other. `in=`, `out=` and `timeout=` do.

## Why something waits

`%why` shows everything that waits, of all notebooks; `%why t42` one cell, also one of another notebook:

    ○ fit (t42) waits for 1 CPU, 1 GPU · 3 min · 2 before it

      node-1   1 GPU short (2 of 2 GPU in use), held by
               train of a.ipynb: 1 CPU, 1 GPU on GPU 0, 12 min
               actor llm of b.ipynb: 1 GPU on GPU 1, 2.0 h

      would begin now if   train of a.ipynb on node-1 ended
                           it asked for 1 CPU
      expected             in 3 min at the earliest

Each proposal was tried on the scheduler's own tables before it is shown ([why](decisions/0053-reasons-are-tried.md)).
The status line, `%jobs` and the dashboard show the first of these words. Of a cell that runs, `%why` says where.
In a program: `atoll.why(ref)`, and `atoll.simulate(num_gpus=2)` for what would be.
"""


def page(grammars: Iterable[Grammar]) -> str:
    """Return the page.

    Args:
        grammars: Of the magics, in the order of the page.
    """
    return "\n".join([_HEAD, *(line for grammar in grammars for line in _section(grammar)), _MEANINGS, *_decorators()])


def _section(grammar: Grammar) -> Iterator[str]:
    yield from (f"## `{grammar.magic}`", "", grammar.summary, "")
    width = max(len(example) for example, _ in grammar.examples) + 3
    yield from (f"    {example:<{width}}{what}" for example, what in grammar.examples)
    yield ""
    if not grammar.options and not grammar.flags:
        told = grammar.name_help or grammar.names_help
        if told:
            yield from (f"`{usage(grammar)}`: {told}.", "")
    else:
        yield from (f"`{usage(grammar)}`", "")
        yield from _options(grammar)
    for note in grammar.notes:
        yield from (note, "")


def _options(grammar: Grammar) -> Iterator[str]:
    if grammar.name_help:
        yield from (f"`name` is {grammar.name_help}.", "")
    for group in (PLACE, NAMES, RUN):
        options = [option for option in grammar.options if option.group == group]
        if options:
            yield from (f"| {group} | |", "| --- | --- |", *map(_row, options), "")
    if grammar.flags:
        yield from ("| flag | |", "| --- | --- |")
        yield from (f"| `{flag.name}` | {_cell(flag.help)} |" for flag in grammar.flags)
        yield ""


def _row(option: Option) -> str:
    return f"| `{option.name}={option.metavar}` | {_cell(option.help)} |"


def _decorators() -> Iterator[str]:
    """Yield the table of both names of each option."""
    yield from ("## The same as a decorator", "")
    yield "| in a line | `@atoll.remote(…)` | |"
    yield "| --- | --- | --- |"
    for name, option in option_schema.TASK.items():
        if option.word:
            flag = option.types == (bool,)
            word = option.word if flag else f"{option.word}="
            yield f"| `{word}` | `{name}={option.example}` | {_cell(option.help)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    from atoll.kernel_ext.magics import MAGICS

    print(page(magic.grammar for magic in MAGICS), end="")
