r"""The long help of each command. ``\b`` before a paragraph keeps click from filling its lines."""

from __future__ import annotations

RUN = """\
Run a workflow.

\b
TARGET  module:workflow or path/to/file.py:workflow

On a terminal the steps are shown while they run, questions of the workflow are asked, and the result is printed.
If the output goes elsewhere it is lines of JSON: one for each event of the stream and for whatever happens to a
step, and last the result. What steps print themselves then goes to standard error.

\b
Examples:
  blazen run greetings:greeter --input '{"name": "Ada"}'
  blazen run flows/report.py:report --input @order.json --timeout 30
  echo '{"name": "Ada"}' | blazen run greetings:greeter --input -
  blazen run greetings:greeter -i '{"name": "Ada"}' | jq 'select(.type == "result")'

Ctrl-C cancels the run, waits until its steps have cleaned up, and says what it stopped.

\b
Exit codes:
  0    done
  1    the run failed
  2    a mistake on the command line, or a module that cannot be imported
  130  stopped by Ctrl-C (143: by SIGTERM)
  70   a fault of blazen itself
"""

GRAPH = """\
Print a picture of a workflow: its steps, which events lead from one to another, what waits for several.

\b
TARGET  module:workflow or path/to/file.py:workflow

\b
Examples:
  blazen graph greetings:greeter
  blazen graph greetings:greeter --format dot | dot -Tsvg > greeter.svg
"""

CHECK = """\
Check workflows without running them: that every event is accepted, that a run can end, and so on.

\b
TARGET  module:workflow, path/to/file.py:workflow, or a module or file: all workflows in it

One line for each. The exit code is 0 if all is well, 1 if a workflow does not fit together, 2 if something cannot
be imported.

With --against, also one line for each unfinished run in a store that could not be gone on with: of another version of
its workflow, with something to do for a step that is gone or accepts it no longer, or with something in it that fits
its class no longer. Nothing in the store is changed.

\b
Examples:
  blazen check greetings:greeter
  blazen check greetings flows/report.py
  blazen check shop.flows --against runs.db
"""

VIEW = """\
Make an HTML page of the record of a run: its graph and what happened when.

\b
RECORD  a file written by `blazen run --record FILE`

\b
Example:
  blazen run greetings:greeter --record run.json
  blazen view run.json
"""

RUNS = """\
List, answer and steer the runs of a store.

The store is a file that `SqliteStore` has made, named by --store FILE or by the environment variable BLAZEN_STORE.
RUN is the id of a run, or 4 or more characters that it begins with.

\b
Examples:
  blazen runs --store runs.db list
  export BLAZEN_STORE=runs.db
  blazen runs list --state waiting --json | jq -r .run_id
  blazen runs show 0b7d3c52
  blazen runs answer cc4fffaa yes
  blazen runs recover shop.flows
"""

RUNS_LIST = """\
List runs, newest first.

A run is stranded if it has not ended and no process that lives runs it: `blazen runs recover`, or a `serve`, goes on
with it as soon as it has something to do.
"""

RUNS_SHOW = """\
Show one run: what it waits for, its open questions, and what others want of it that it has not taken yet.
"""

RUNS_ANSWER = """\
Answer an open question.

\b
QUESTION  its id, or 4 or more characters that it begins with; see `blazen runs show`
TEXT      the answer; JSON if the question takes no text: true, 7, [1, 2]

The answer is in the store when this returns. The run checks it when it takes it; if it does not fit, the question is
open again, and `blazen runs show` says why.
"""

RUNS_RECOVER = """\
Go on with every unfinished run that no live process runs, until nothing is left to do.

\b
TARGET  module:workflow, path/to/file.py:workflow, or a module or file: all workflows in it

One line for each run: completed, failed, cancelled, or waiting for somebody. The exit code is 1 if one of them
failed or cannot be gone on with.
"""

COMPLETION = """\
Print the script that lets a shell complete the commands and options of blazen.

\b
bash  eval "$(blazen completion bash)"                       in ~/.bashrc
zsh   eval "$(blazen completion zsh)"                        in ~/.zshrc
fish  blazen completion fish > ~/.config/fish/completions/blazen.fish
"""
