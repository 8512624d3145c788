"""A function of this program that the sandboxed code can call, though it has no network and no files of yours."""

from codeact import Agent, Budget, tool

PRICES = {"apple": 0.40, "pear": 0.55, "plum": 0.25}


@tool
def price_of(fruit: str) -> float:
    """The price of one piece of fruit in euros."""
    return PRICES[fruit]


agent = Agent(tools=[price_of], budget=Budget(turns=8))
result = agent.run("What do three apples, two pears and ten plums cost together?")
print(result.answer or f"No answer: {result.message}")
