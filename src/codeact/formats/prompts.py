"""The instructions that each action format gives to the model."""

from __future__ import annotations

_COMMON = """\
You solve tasks by running Python. You have a Jupyter notebook of your own: each piece of code that you send is run as
its next cell, and the variables, imports and functions of earlier cells stay alive. Print what you want to see, or
leave it as the last expression of the cell. `%magic` lines and `!shell` commands work as in any notebook.

How to act:
{how}
- Send one piece of code per reply and end the reply there. What the code really gave back comes next, in a message that
  begins with "Execution Output:". Never write that message yourself and never guess results.
- Take small steps and look at what you get. When code fails, read the error, correct the cause and go on; what earlier
  cells computed is still there.
- When the task is done, {finish}

{environment}"""

_TAGS = """\
- Say in a sentence or two what you are about to do, then write the code between `<execute>` and `</execute>`:

<execute>
total = sum(range(10))
print(total)
</execute>
"""

_FENCES = """\
- Say in a sentence or two what you are about to do, then write the code in a fenced block marked `python`:

```python
total = sum(range(10))
print(total)
```

- Show code that is not meant to run in a block without that mark.
"""

_TOOL_CALL = """\
- Call the tool `python` with the code in `code`. It is your only tool; anything else is done by writing Python.
"""


def tags_prompt(environment: str) -> str:
    finish = (
        "answer in plain text without any `<execute>` block (or put the answer between `<solution>` and `</solution>`)."
    )
    return _COMMON.format(how=_TAGS, finish=finish, environment=environment.strip()).rstrip()


def fences_prompt(environment: str) -> str:
    finish = "answer in plain text without any block marked `python`."
    return _COMMON.format(how=_FENCES, finish=finish, environment=environment.strip()).rstrip()


def tool_call_prompt(environment: str) -> str:
    finish = "answer in plain text without calling the tool."
    return _COMMON.format(how=_TOOL_CALL, finish=finish, environment=environment.strip()).rstrip()
