"""Small programs: numbers, words, lists, functions, no table."""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import JsonValue

from codeact.evals.tables.family import Draft, Family, Setting
from codeact.evals.task import FunctionCheck, NumberCheck, NumbersCheck, SetCheck, TextCheck

_WORDS = (
    "amber", "basket", "candle", "dragon", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pepper", "quarry", "ribbon", "saddle", "temple", "umbrella", "velvet",
    "window", "yellow", "zipper", "level", "radar", "civic", "kayak", "stone", "notes", "onset", "listen", "silent",
)  # fmt: skip


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _collatz(n: int) -> int:
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


_PRIME = "def prime(n):\n    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))\n"


def number_program(setting: Setting) -> Draft:
    rng = setting.rng
    n, m = rng.randint(30, 900), rng.choice((3, 4, 6, 7, 8, 9, 11))
    low = rng.randint(2, 60)
    kinds: tuple[tuple[int, str, tuple[str, ...]], ...] = (
        (sum(k for k in range(n + 1) if _prime(k)), f"{_PRIME}print(sum(k for k in range({n} + 1) if prime(k)))",
         (f"the <sum> of all prime numbers up to {n}", f"the <sum> of the primes not above {n}")),
        (sum(_prime(k) for k in range(low, low + n)), f"{_PRIME}print(sum(prime(k) for k in range({low}, {low + n})))",
         (f"the <number> of primes from {low} to {low + n - 1}",)),
        (sum(k for k in range(1, n + 1) if k % m == 0), f"print(sum(k for k in range(1, {n} + 1) if k % {m} == 0))",
         (f"the <sum> of all multiples of {m} from 1 to {n}", f"the <sum> of all numbers up to {n} that {m} divides")),
        (sum(map(int, str(m**low))), f"print(sum(map(int, str({m} ** {low}))))",
         (f"the <sum> of the decimal digits of {m} to the power {low}", f"the digit sum of {m}^{low}")),
        (math.gcd(n * m, low * m), f"import math\nprint(math.gcd({n * m}, {low * m}))",
         (f"the greatest common divisor of {n * m} and {low * m}", f"the largest number that divides {n * m} and {low * m}")),
        (_collatz(n), f"n, steps = {n}, 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nprint(steps)",
         (f"the <number> of Collatz steps from {n} to 1 (n/2 if even, else 3n+1)",)),
        (len([d for d in range(1, n + 1) if n % d == 0]), f"print(len([d for d in range(1, {n} + 1) if {n} % d == 0]))",
         (f"the <number> of divisors of {n}, 1 and itself included", f"how many whole numbers divide {n}")),
        (sum(k * k for k in range(1, low + 1)), f"print(sum(k * k for k in range(1, {low} + 1)))",
         (f"the <sum> of the squares of 1 to {low}", f"1^2 + 2^2 + ... + {low}^2")),
        (int(bin(n)[2:].count("1")), f"print(bin({n}).count(\"1\"))",
         (f"the <number> of ones in {n} written in binary", f"the <number> of bits set in {n}")),
    )  # fmt: skip
    value, code, nouns = rng.choice(kinds)
    return Draft(
        checks=(NumberCheck(value=value, exact=True),),
        reference=(code,),
        reply="The result is {output}.",
        nouns=nouns,
        table="none",
    )


def text_program(setting: Setting) -> Draft:
    rng = setting.rng
    words = rng.sample(_WORDS, rng.randint(3, 6))
    text = " ".join(words)
    word = rng.choice([w for w in words if len(w) > 4])
    shift = rng.randint(1, 12)
    moved = "".join(chr((ord(c) - 97 + shift) % 26 + 97) if c != " " else c for c in word)
    letter = rng.choice(sorted(set(text) - {" "}))
    vowels = sum(c in "aeiou" for c in text)
    Kind = tuple[TextCheck | NumberCheck, str, tuple[str, ...]]
    kinds: tuple[Kind, ...] = (
        (TextCheck(text=word[::-1]), f'print("{word}"[::-1])', (f'the word "{word}" spelt backwards', f'"{word}" reversed')),
        (TextCheck(text=moved),
         f'print("".join(chr((ord(c) - 97 + {shift}) % 26 + 97) for c in "{word}"))',
         (f'"{word}" with every letter moved {shift} places on in the alphabet (after z comes a)',
          f'the Caesar cipher of "{word}" with a shift of {shift}')),
        (NumberCheck(value=vowels, exact=True), f'print(sum(c in "aeiou" for c in "{text}"))',
         (f'the <number> of vowels (a, e, i, o, u) in "{text}"', f'how many vowels "{text}" has (a, e, i, o, u)')),
        (NumberCheck(value=text.count(letter), exact=True), f'print("{text}".count("{letter}"))',
         (f'the <number> of times the letter {letter} occurs in "{text}"',)),
        (TextCheck(text=" ".join(reversed(words))), f'print(" ".join(reversed("{text}".split())))',
         (f'"{text}" with the order of its words turned round', f'the words of "{text}" in reverse order')),
        (TextCheck(text=" ".join(w.capitalize() for w in words)), f'print("{text}".title())',
         (f'"{text}" with every word beginning with a capital letter',)),
        (TextCheck(text="".join(w[0] for w in words)), f'print("".join(w[0] for w in "{text}".split()))',
         (f'the first letters of the words "{text}", put together',)),
        (TextCheck(text="".join(sorted(word))), f'print("".join(sorted("{word}")))',
         (f'the letters of "{word}" in alphabetical order, as one word',)),
    )  # fmt: skip
    check, code, nouns = rng.choice(kinds)
    return Draft(checks=(check,), reference=(code,), reply="It is: {output}", nouns=nouns, table="none")


def list_program(setting: Setting) -> Draft:
    rng = setting.rng
    numbers = [rng.randint(-40, 99) for _ in range(rng.randint(6, 12))]
    words = rng.sample(_WORDS, rng.randint(5, 9))
    limit = rng.choice((5, 6))
    long = tuple(sorted(w for w in words if len(w) > limit)) or tuple(sorted(words))
    limit = limit if any(len(w) > limit for w in words) else 0
    shown_numbers, shown_words = ", ".join(map(str, numbers)), ", ".join(words)
    evens = [n for n in numbers if n % 2 == 0] or numbers
    even_code = f"n = {numbers}\nprint(', '.join(str(k) for k in n if k % 2 == 0))"
    if not any(n % 2 == 0 for n in numbers):
        even_code = f"n = {numbers}\nprint(', '.join(map(str, n)))"
    Kind = tuple[NumbersCheck | SetCheck | NumberCheck, str, tuple[str, ...]]
    kinds: list[Kind] = [
        (NumbersCheck(values=tuple(sorted(numbers)), ordered=True, exact=True),
         f"print(', '.join(map(str, sorted({numbers}))))", (f"the numbers {shown_numbers} in rising order",)),
        (SetCheck(labels=long, choices=tuple(words)),
         f"words = {words}\nprint(', '.join(w for w in words if len(w) > {limit}))",
         (f"all words with more than {limit} letters among: {shown_words}",)),
        (SetCheck(labels=tuple(sorted(words)), choices=tuple(words), ordered=True),
         f"print(', '.join(sorted({words})))", (f"the words {shown_words} in alphabetical order",)),
        (NumberCheck(value=max(numbers) - min(numbers), exact=True),
         f"n = {numbers}\nprint(max(n) - min(n))", (f"the largest minus the smallest of {shown_numbers}",)),
        (NumberCheck(value=sum(n for n in numbers if n > 0), exact=True),
         f"print(sum(n for n in {numbers} if n > 0))", (f"the <sum> of the positive numbers among {shown_numbers}",)),
    ]  # fmt: skip
    if any(n % 2 == 0 for n in numbers):
        kinds.append((
            NumbersCheck(values=tuple(evens), ordered=True, exact=True), even_code,
            (f"the even numbers among {shown_numbers}, in the order given",),
        ))  # fmt: skip
    check, code, nouns = rng.choice(kinds)
    return Draft(checks=(check,), reference=(code,), reply="It is: {output}", nouns=nouns, table="none")


def _vowels(text: str) -> int:
    return sum(c in "aeiou" for c in text.lower())


_FUNCTIONS: tuple[tuple[str, str, str, Callable[..., JsonValue], tuple[tuple[JsonValue, ...], ...]], ...] = (
    ("is_palindrome", "takes a text and says (True or False) whether it reads the same backwards, case aside",
     "t = text.lower()\n    return t == t[::-1]|text", lambda t: t.lower() == t.lower()[::-1],
     (("Level",), ("window",), ("",), ("Noon",))),
    ("count_vowels", "takes a text and returns how many of its letters are a, e, i, o or u, capitals too",
     'return sum(c in "aeiou" for c in text.lower())|text', _vowels, (("Orange",), ("rhythm",), ("AEIOU xyz",))),
    ("factorial", "takes a whole number n >= 0 and returns n!",
     "result = 1\n    for k in range(2, n + 1):\n        result *= k\n    return result|n", math.factorial,
     ((0,), (1,), (5,), (12,))),
    ("clamp", "takes three numbers x, low, high and returns x, but at least low and at most high",
     "return max(low, min(high, x))|x, low, high", lambda x, low, high: max(low, min(high, x)),
     ((5, 0, 3), (-2, 0, 3), (2, 0, 3))),
    ("flatten", "takes a list of lists and returns one list with all their elements in order",
     "return [x for part in lists for x in part]|lists", lambda lists: [x for part in lists for x in part],
     (([[1, 2], [], [3]],), ([],), ([["a"], ["b", "c"]],))),
    ("word_counts", "takes a text and returns a dict from each word (split at spaces, lower case) to how often it occurs",
     "found = {}\n    for word in text.lower().split():\n        found[word] = found.get(word, 0) + 1\n    return found|text",
     lambda text: {w: text.lower().split().count(w) for w in text.lower().split()},
     (("a b A",), ("",), ("one two two",))),
    ("running_sum", "takes a list of numbers and returns the list of the sums up to each place",
     "out, total = [], 0\n    for n in numbers:\n        total += n\n        out.append(total)\n    return out|numbers",
     lambda numbers: [sum(numbers[: i + 1]) for i in range(len(numbers))], (([1, 2, 3],), ([],), ([5, -5, 2],))),
    ("second_largest", "takes a list of numbers and returns the second largest of its different values",
     "return sorted(set(numbers))[-2]|numbers", lambda numbers: sorted(set(numbers))[-2],
     (([1, 5, 5, 3],), ([2, 1],), ([-1, -5, -3],))),
    ("to_celsius", "takes degrees Fahrenheit and returns degrees Celsius",
     "return (f - 32) * 5 / 9|f", lambda f: (f - 32) * 5 / 9, ((32,), (212,), (-40,))),
    ("chunks", "takes a list and a size and returns the list cut into lists of that size, the last one maybe shorter",
     "return [items[i:i + size] for i in range(0, len(items), size)]|items, size",
     lambda items, size: [items[i : i + size] for i in range(0, len(items), size)],
     (([1, 2, 3, 4, 5], 2), ([], 3), ([1, 2], 5))),
)  # fmt: skip


def function_program(setting: Setting) -> Draft:
    name, does, code, compute, calls = setting.rng.choice(_FUNCTIONS)
    body, _, parameters = code.partition("|")
    called = setting.rng.choice((name, name, f"my_{name}", f"{name}_of" if not name.startswith("is_") else name))
    return Draft(
        checks=(FunctionCheck(name=called, calls=tuple((call, compute(*call)) for call in calls)),),
        reference=(f"def {called}({parameters}):\n    {body}",),
        reply=f"The function {called} is there.",
        asks=(
            "[Write|Define|Make] a function {n} that {d}.",
            "I need a Python function called {n}. It {d}.",
            "[Define|Program] {n}: a function which {d}. [Leave it defined.|Try it out too.|]",
            "Please [write|give me] {n}, which {d}. [It has to stay defined.|]",
            "[Can|Could] you [write|define] {n}, a function that {d}?",
            "[We need|I am missing|There is no] {n} [here|in this notebook] yet: it {d}. [Add|Write|Define] it.",
            "Function {n}: {d}. [Write it.|Define it, please.|Put it into the notebook.]",
        ),
        slots={"n": setting.rng.choice((called, f"`{called}`")), "d": does},
        table="none",
    )


def money_program(setting: Setting) -> Draft:
    rng = setting.rng
    start, rate, years = rng.randrange(500, 20000, 100), rng.choice((1, 1.5, 2, 2.5, 3, 4, 5, 7)), rng.randint(2, 25)
    if rng.random() < 0.5:
        value = start * (1 + rate / 100) ** years
        return Draft(
            checks=(NumberCheck(value=float(f"{value:.10g}"), digits=2),),
            reference=(f"print(round({start} * (1 + {rate} / 100) ** {years}, 2))",),
            reply="It grows to {output}.",
            nouns=(f"the worth of {start} after {years} years at {rate} % compound interest a year",),
            asks=(
                f"{start} euros earn {rate} % a year, interest added once a year. How much is it after {years} years?",
                f"What do {start} dollars become in {years} years with {rate} percent of yearly compound interest?",
            ),
            ending=" Round to two decimals.",
            table="none",
        )
    goal = start * rng.choice((1.5, 2, 3))
    money, needed = float(start), 0
    while money < goal:
        money, needed = money * (1 + rate / 100), needed + 1
    return Draft(
        checks=(NumberCheck(value=needed, exact=True),),
        reference=(
            f"money, years = {start}, 0\nwhile money < {goal:g}:\n    money *= 1 + {rate} / 100\n    years += 1\nprint(years)",
        ),
        reply="It takes {output} years.",
        nouns=(
            f"the [least|smallest] number of [whole|full] years [until|after which] {start} [has grown|grows] to {goal:g} [or more|at least] at {rate} % a year",
            f"how many [whole|full|complete] years {start} [need|take] to [become|reach] {goal:g} at {rate} [%|percent] [a year|per year|yearly]",
        ),
        asks=(
            f"[Money grows|Savings grow|A sum grows] by {rate} [%|percent] [a year|each year|every year]. [Starting|Beginning] with {start}, after how many [whole|full] years [is|will] it [at least {goal:g}|{goal:g} or more]?",
            f"{start} grow by {rate} % a year. After how many whole years are they at least {goal:g}?",
            f"How many full years at {rate} percent yearly growth does it take until {start} is {goal:g} or more?",
        ),
        table="none",
    )


def matrix_program(setting: Setting) -> Draft:
    rng = setting.rng
    size = rng.choice((2, 3))
    rows = [[rng.randint(-5, 9) for _ in range(size)] for _ in range(size)]
    trace = sum(rows[i][i] for i in range(size))
    squared = sum(rows[0][k] * rows[k][0] for k in range(size))
    if size == 2:
        determinant = rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    else:
        (a, b, c), (d, e, f), (g, h, i) = rows
        determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    kinds = (
        (determinant, "round(np.linalg.det(m))", "the determinant of {m}"),
        (trace, "np.trace(m)", "the sum of the main diagonal of {m}"),
        (squared, "(m @ m)[0, 0]", "the element in the upper left of {m} multiplied by itself (as matrices)"),
    )
    value, code, noun = rng.choice(kinds)
    return Draft(
        checks=(NumberCheck(value=value, exact=True),),
        reference=(f"import numpy as np\nm = np.array({rows})\nprint({code})",),
        reply="The result is {output}.",
        nouns=(noun,),
        slots={"m": f"the matrix {rows}"},
        table="none",
    )


FAMILIES = (
    Family("number_program", 1, number_program, "none"),
    Family("text_program", 2, text_program, "none"),
    Family("list_program", 1, list_program, "none"),
    Family("function_program", 2, function_program, "none"),
    Family("money_program", 2, money_program, "none"),
    Family("matrix_program", 2, matrix_program, "none"),
)
