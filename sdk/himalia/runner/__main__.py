"""`python -m himalia.runner VERB`."""

from himalia.runner import main

main()
