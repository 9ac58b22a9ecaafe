"""What `%%cached`, `%cached`, `%uncache`, `%persist` and `%restore` may say."""

from __future__ import annotations

from atoll.kernel_ext.grammar.cells import PLACEMENT, QUIET
from atoll.kernel_ext.grammar.schema import Flag, Grammar, Option
from atoll.kernel_ext.grammar.values import read_paths, read_word

CACHED = Grammar(
    magic="%%cached",
    summary=(
        "Run this cell once. Every notebook of the cluster, and this one after a restart, gets what it keeps without "
        "computing it again, until something that it depends on has changed."
    ),
    examples=(
        ("%%cached df, model", "compute df and model once, and keep them"),
        ("%%cached df files=sales.csv,rates/", "again when these files have changed"),
        ("%%cached model gpu=1", "on a worker that holds a GPU"),
        ("%%cached model fresh", "compute it again in any case"),
    ),
    names_help="the names that the cell keeps; all that it sets if not said",
    options=(
        Option(
            "files",
            "PATHS",
            "files and directories that it depends on; what Python opens and what the cell names is seen by itself",
            read_paths,
            "sales.csv,rates/",
        ),
        *PLACEMENT,
    ),
    flags=(
        Flag("fresh", "compute it again, and keep that"),
        QUIET,
    ),
    notes=(
        (
            "It depends on the cell's code (not on comments and layout), the values, functions and classes that it "
            "reads, modules beside the notebook, versions of packages, environment variables and files."
        ),
        "%cached shows what is kept, %uncache df forgets it. The cell runs on a worker, as %%remote does.",
        (
            "There is no bg: what is kept is compared with the notebook as it is when the cell has run. In the "
            "background, `df = atoll.cache.get_or_compute('df', load)` in a %%remote fit bg keeps it for all."
        ),
    ),
    refused={
        "bg": (
            "%%cached has no bg: what it keeps is compared with the notebook as it is when the cell has run. Write "
            "%%remote fit bg, and in the cell df = atoll.cache.get_or_compute('df', load)"
        )
    },
)

CACHED_VIEW = Grammar(
    magic="%cached",
    summary="Show what %%cached cells have kept: which names, how large, computed when, by which notebook.",
    examples=(("%cached", "everything"),),
)

UNCACHE = Grammar(
    magic="%uncache",
    summary="Forget what %%cached cells have kept.",
    examples=(("%uncache df", "the results that hold df, of all notebooks"), ("%uncache all", "all results")),
    names_help="names that cells have kept",
    names_known="cached",
    flags=(Flag("all", "everything that %%cached cells have kept"),),
)

PERSIST = Grammar(
    magic="%persist",
    summary="Give values a name in the cluster: they outlive the kernel, and every notebook can have them.",
    examples=(
        ("%persist df", "then %restore df in any notebook, also after a restart"),
        ("%persist df as=sales", "under another name"),
        ("%persist", "show what has a name"),
    ),
    names_help="variables",
    options=(Option("as", "NAME", "the name in the cluster; the variable's own if not said", read_word, "sales"),),
    notes=("The same as atoll.cache['df'] = df; `del atoll.cache['df']` takes the name away.",),
)

RESTORE = Grammar(
    magic="%restore",
    summary="Bring values back that have a name in the cluster. Large ones are not copied.",
    examples=(
        ("%restore df", "the value that was kept as df"),
        ("%restore sales as=df", "bind it to another variable"),
        ("%restore", "all that %persist has kept"),
    ),
    names_help="names in the cluster",
    names_known="kept",
    options=(Option("as", "NAME", "the variable; the name itself if not said", read_word, "df"),),
)
