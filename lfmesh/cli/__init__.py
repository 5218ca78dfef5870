"""L4: the command line, where everything is put together. `main` is the console script `lfmesh`.

Modules: `root` (the group, exit codes), `options` (what commands share), one module a command, and `up` (the
supervisor of a whole mesh on one machine). Commands import what they need when they run: `lfmesh --help` needs
click only.
"""

import signal


def main() -> None:
    """Run the command line and leave with its exit code.

    Until a command has something to end in order, Ctrl-C ends the process at once, in the middle of imports
    too; commands that do have something install handlers of their own (`lfmesh.cli.interrupts`).
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lfmesh.cli.root import run

    run()
