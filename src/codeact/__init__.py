"""An agent whose only action is Python, run in an isolated, stateful Jupyter kernel."""

__version__ = "0.1.0"
