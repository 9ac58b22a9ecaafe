"""What `%%remote`, `%%actor` and `%remote defaults` may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.kernel_ext.grammar.parser import no_expression, parse
from atoll.kernel_ext.grammar.schema import NAMES, PLACE, RUN, Flag, Grammar, MagicUsageError, Option, option_of
from atoll.kernel_ext.grammar.values import (
    read_amount,
    read_duration,
    read_environment,
    read_gpus,
    read_names,
    read_pairs,
    read_places,
    read_positive_duration,
    read_size_or_auto,
    read_strategy,
    read_whole,
    read_word,
)

GPU = option_of(
    "num_gpus",
    "N or MODEL[:N]",
    read_gpus,
    "1",
    more="; of a model: A100:2, or of those that will do: A100,H100",
    known="gpu",
)
GPU_MEM = option_of("gpu_memory", "SIZE", read_size_or_auto, "20G")
CPU = option_of("num_cpus", "N", read_amount, "2")
MEM = option_of("memory", "SIZE", read_size_or_auto, "4G")
RESOURCES = option_of("resources", "NAME:N,…", read_pairs(":", read_amount), "licence:1")
LABELS = option_of(
    "label_selector",
    "NAME:VALUE,…",
    read_pairs(":", str),
    "zone:a",
    more=": zone:a, zone:!a, zone:in(a,b)",
    known="label",
)

ALTERNATIVE = Grammar(
    magic="or=",
    summary="What will do as well.",
    examples=(("cpu=8", "CPUs instead"),),
    options=(GPU, GPU_MEM, CPU, MEM, RESOURCES, LABELS),
)


def read_alternative(value: Any) -> dict[str, Any]:
    """Read what will do as well: `cpu=8`, or several options in quotes; from an expression, options of tasks.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, Mapping):
        return dict(value)
    try:
        said = parse(ALTERNATIVE, str(value), no_expression)
    except MagicUsageError as error:
        raise ValueError(f"cannot be: {error}") from None
    if not said.values:
        raise ValueError("says nothing")
    return said.api_options()


NODE = Option(
    "node",
    "NODE",
    "on this node, or one of several: big,small; ~big rather there; !big not there",
    read_places,
    "big",
    known="node",
    group=PLACE,
)
NEAR = Option(
    "near",
    "NAME",
    "rather on the node where this actor lives, or this object of the cache lies",
    read_word,
    "llm",
    known="near",
    group=PLACE,
)
OR = option_of(
    "alternatives",
    "OPTIONS",
    read_alternative,
    "cpu=8",
    more='; several in quotes: or="gpu=H100 mem=80G"',
    repeats=True,
)
ENV = option_of("runtime_env", "ENV", read_environment, "OMP_NUM_THREADS=4", group=RUN)
IN = Option("in", "NAMES", "names to take along; all that the cell reads if not said", read_names, "df", "name", NAMES)
PRIORITY = option_of("priority", "N", read_whole, "10", group=RUN)

PLACEMENT = (
    GPU,
    GPU_MEM,
    CPU,
    MEM,
    NODE,
    NEAR,
    LABELS,
    RESOURCES,
    OR,
    option_of("scheduling_strategy", "STRATEGY", read_strategy, "spread", known="strategy"),
    PRIORITY,
    ENV,
)
"""What says where something runs and what it holds."""

RUNNING = (
    option_of("deadline_s", "TIME", read_duration, "10m", group=RUN),
    option_of("earliest_s", "TIME", read_duration, "1m", group=RUN),
    Option("timeout", "TIME", "stop it when it has run so long; waiting does not count", read_positive_duration, "10m"),
    Option(
        "queue", "NAME", "one after the other with the cells of all notebooks that name it", read_word, "train", "queue"
    ),
    option_of("max_retries", "N", read_whole, "2", group=RUN),
)

QUIET = Flag("quiet", "show no status line")
NOTIFY = Flag("notify", "with bg: the browser tells when it is done and nobody looks at the page, if you allow it to")
PREEMPTIBLE = Flag("preemptible", option_of("preemptible", "", bool, "").help, "preemptible")

REMOTE = Grammar(
    magic="%%remote",
    summary="Run this cell on a worker of the cluster: same names, same output, same errors as if it ran here.",
    examples=(
        ("%%remote", "on any free CPU"),
        ("%%remote gpu=1", "on a worker that holds a GPU"),
        ("%%remote gpu=A100:2 or=cpu=16", "on two A100, or on 16 CPUs if these are free first"),
        ("%%remote fit gpu=1 mem=8G bg", "in the background; then fit.result(), fit['model'], fit.cancel()"),
        ("%%remote on=llm", "inside the actor llm, beside its state"),
        ("%%remote out=score timeout=10m", "bring only `score` back; stop after ten minutes"),
        ("%%remote env=OMP_NUM_THREADS=4", "with a variable of its own"),
        ("%%remote cpu={n_cores}", "a value computed here"),
        ("%%remote gpu=2 dry", "say where it would run, and run nothing"),
    ),
    name_help="what the cell is called in %jobs; with bg, the variable that holds its handle",
    options=(
        *PLACEMENT,
        Option("on", "ACTOR", "run inside this actor, beside its state", read_word, "llm", "actor", PLACE),
        IN,
        Option(
            "out",
            "NAMES",
            "names to bring back; all that the cell sets if not said",
            read_names,
            "model,score",
            group=NAMES,
        ),
        *RUNNING,
    ),
    flags=(
        Flag("bg", "run in the background: the cell ends at once and leaves a handle"),
        NOTIFY,
        QUIET,
        Flag("local", "run here, in the kernel, as if the line were not there"),
        Flag("dry", "say where it would run and why, and run nothing"),
        PREEMPTIBLE,
    ),
    notes=(
        "%remote defaults gpu=1 says it for every %%remote of this notebook; %remote? tells more.",
        "The same as a decorator: @atoll.remote(num_gpus=1). docs/magics.md has both names of each option.",
    ),
)

DEFAULTS = Grammar(
    magic="%remote",
    summary="Set what every %%remote of this notebook says unless its own line says otherwise.",
    examples=(
        ("%remote defaults gpu=1 mem=8G", "from now on; added to what was set before"),
        ("%remote defaults", "show them"),
        ("%remote defaults clear", "back to none"),
    ),
    name_help="`defaults`",
    options=(*PLACEMENT, *RUNNING),
    flags=(
        Flag("clear", "forget what was set before"),
        NOTIFY,
        QUIET,
        Flag("local", "run every %%remote here, in the kernel"),
        PREEMPTIBLE,
    ),
    name_required=True,
    name_known="defaults",
    notes=(
        "A cell takes one back by saying its own: gpu=0.",
        "With on=ACTOR the options that say where it runs do not count, and nothing does that says what it holds.",
        "They live as long as the kernel. Keep the line in the notebook, near the top.",
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
        (
            "%%actor llm gpu=1 idle=10m",
            "gives its GPU up when it is idle, and takes it back at the next call",
        ),
        ("%%actor llm gpu=1 fresh", "end the one there is and start anew"),
        ("%%actor llm gpu=1 expire=8h", "end it when nobody has used it for so long"),
    ),
    name_help="the actor's name, in all notebooks, and the variable that stands for it here",
    options=(
        *PLACEMENT,
        IN,
        option_of("release_gpu_when_idle_s", "TIME", read_positive_duration, "10m", group=RUN),
        Option("expire", "TIME", "end it when nobody has used it for so long", read_positive_duration, "8h", group=RUN),
    ),
    flags=(
        Flag("fresh", "end the actor that has the name, with its state, and make a new one"),
        QUIET,
        Flag("dry", "say where it would live and why, and make nothing"),
    ),
    name_required=True,
    notes=("%%remote on=NAME runs a cell inside it. %actor NAME binds the name in another notebook.",),
)
