"""The first line of a magic: one schema gives its parser, its documentation, its completion and its errors.

    %%remote fit gpu=1 mem={2 * gigabyte} out=model,score bg
             ─┬─ ──┬── ────────┬───────── ───────┬─────── ─┬
             name  option=value, in any order              flag

`--gpu 1`, `--gpu=1` and `--bg` mean the same as `gpu=1` and `bg`. A value in braces is a Python expression.

Owns: what each magic may say (`cells`, `looks`, `kept`), how that is written (`schema`, `values`), read (`parser`)
and told (`texts`; `page` makes docs/magics.md).

Never: runs anything, asks the cluster, knows IPython's shell. Everything here is a function of text; expressions are
handed to the caller to evaluate, and what is known of the cluster for completion is handed in.

In: a line of text. Out: a `ParsedLine`, or a `MagicUsageError` that says what would be right.
"""

from atoll.kernel_ext.grammar.cells import ACTOR, DEFAULTS, REMOTE
from atoll.kernel_ext.grammar.kept import CACHED, CACHED_VIEW, PERSIST, RESTORE, UNCACHE
from atoll.kernel_ext.grammar.looks import (
    ACTORS,
    ATTACH,
    BIND,
    CLUSTER,
    DASHBOARD,
    GPUS,
    JOBS,
    LOGS,
    OBJECTS,
    TRACEBACK,
    USAGE,
    WHY,
)
from atoll.kernel_ext.grammar.parser import Evaluate, parse, split_words
from atoll.kernel_ext.grammar.schema import Flag, Grammar, MagicUsageError, Option, ParsedLine
from atoll.kernel_ext.grammar.texts import completions, documentation, usage

__all__ = [
    "ACTOR",
    "ACTORS",
    "ATTACH",
    "BIND",
    "CACHED",
    "CACHED_VIEW",
    "CLUSTER",
    "DASHBOARD",
    "DEFAULTS",
    "GPUS",
    "JOBS",
    "LOGS",
    "OBJECTS",
    "PERSIST",
    "REMOTE",
    "RESTORE",
    "TRACEBACK",
    "UNCACHE",
    "USAGE",
    "WHY",
    "Evaluate",
    "Flag",
    "Grammar",
    "MagicUsageError",
    "Option",
    "ParsedLine",
    "completions",
    "documentation",
    "parse",
    "split_words",
    "usage",
]
