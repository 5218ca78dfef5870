"""`python -m lfmesh.cli`: the command line without its console script."""

from lfmesh.cli import main

main()
