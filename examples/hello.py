"""The smallest run: one task, one file, an answer.

python examples/hello.py cars.csv "How many rows are there?"     (the model: see `codeact run --help`)
"""

import sys

from codeact import Agent

path, task = sys.argv[1:3]
result = Agent().run(task, files=[path])
print(result.answer or f"No answer: {result.message}")
