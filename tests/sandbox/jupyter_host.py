"""A program that has jupyter_client start a kernel: ``python -m tests.sandbox.jupyter_host NAME CODE``.

Prints what the code printed, then ``ready``, and waits until its stdin ends.
"""

from __future__ import annotations

import sys

from jupyter_client.manager import start_new_kernel


def main() -> None:
    manager, client = start_new_kernel(kernel_name=sys.argv[1], startup_timeout=30)

    def show(message: dict[str, object]) -> None:
        content = message["content"]
        if isinstance(content, dict) and "text" in content:
            print(content["text"], end="")  # noqa: T201

    client.execute_interactive(sys.argv[2], timeout=30, output_hook=show)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.read()
    client.stop_channels()
    manager.shutdown_kernel()


if __name__ == "__main__":
    main()
