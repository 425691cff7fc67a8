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

\b
Examples:
  blazen check greetings:greeter
  blazen check greetings flows/report.py
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

COMPLETION = """\
Print the script that lets a shell complete the commands and options of blazen.

\b
bash  eval "$(blazen completion bash)"                       in ~/.bashrc
zsh   eval "$(blazen completion zsh)"                        in ~/.zshrc
fish  blazen completion fish > ~/.config/fish/completions/blazen.fish
"""
