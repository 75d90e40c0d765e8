"""The remover: a tiny process that removes a folder when its owner has ended.

Run by `child.Child` as `python -I -S _remover.py OWNER_PID FOLDER`, standard library only. It
removes the folder at `quit`, when its input closes, or when its owner is no longer its parent; it
polls, because that works alike on Linux and macOS, also after SIGKILL.
"""

import os
import select
import shutil
import sys

POLL_S = 0.5


def main() -> None:
    owner, folder = int(sys.argv[1]), sys.argv[2]
    print("ready", flush=True)
    while os.getppid() == owner:
        if select.select([sys.stdin], [], [], POLL_S)[0]:
            break  # `quit`, or the end of the input
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
