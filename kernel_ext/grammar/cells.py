"""What `%%remote` and `%%actor` may say."""

from __future__ import annotations

from atoll.kernel_ext.grammar.schema import Flag, Grammar, Option
from atoll.kernel_ext.grammar.values import read_amount, read_names, read_size, read_word

GPU = Option("gpu", "N", "GPUs that it holds: 1, 2, or a share such as 0.5", read_amount, "1")
CPU = Option("cpu", "N", "CPUs that it holds; 1 if not said", read_amount, "2")
MEM = Option("mem", "SIZE", "memory that is set aside for it", read_size, "4G")

REMOTE = Grammar(
    magic="%%remote",
    summary="Run this cell on a worker of the cluster: same names, same output, same errors as if it ran here.",
    examples=(
        ("%%remote", "on any free CPU"),
        ("%%remote gpu=1", "on a worker that holds a GPU"),
        ("%%remote fit gpu=1 mem=8G bg", "in the background; then fit.result(), fit['model'], fit.cancel()"),
        ("%%remote on=llm", "inside the actor llm, beside its state"),
        ("%%remote out=score", "bring only `score` back"),
        ("%%remote cpu={n_cores}", "a value computed here"),
    ),
    name_help="what the cell is called in %jobs; with bg, the variable that holds its handle",
    options=(
        GPU,
        CPU,
        MEM,
        Option("out", "NAMES", "names to bring back; all that the cell sets if not said", read_names, "model,score"),
        Option("in", "NAMES", "names to take along; all that the cell reads if not said", read_names, "df"),
        Option("on", "ACTOR", "run inside this actor, beside its state", read_word, "llm", known="actor"),
    ),
    flags=(
        Flag("bg", "run in the background: the cell ends at once and leaves a handle"),
        Flag("quiet", "show no output"),
    ),
)

ACTOR = Grammar(
    magic="%%actor",
    summary=(
        "Run this cell in a process of its own and keep it: its variables live on, its functions are methods. "
        "Any notebook finds it by its name, also after a kernel restart."
    ),
    examples=(
        ("%%actor llm gpu=1", "then llm.generate('...') from any cell"),
        ("%%actor llm", "again: updates its functions, keeps its state"),
        ("%%actor llm gpu=1 fresh", "end the one there is and start anew"),
    ),
    name_help="the actor's name, in all notebooks, and the variable that stands for it here",
    options=(
        GPU,
        CPU,
        MEM,
        Option("in", "NAMES", "names to take along; all that the cell reads if not said", read_names, "df"),
    ),
    flags=(
        Flag("fresh", "end the actor that has the name, with its state, and make a new one"),
        Flag("quiet", "show no output"),
    ),
    name_required=True,
    notes=("%%remote on=NAME runs a cell inside it. %actor NAME binds the name in another notebook.",),
)
