"""The product with one more provider, the in-process models of the benchmark: `python -m benchmarks.server CONFIG`."""

import sys

from benchmarks import models
from sessile import compose, config

if __name__ == "__main__":
    compose.serve(config.load(sys.argv[1]), providers={"bench": models.Provider()})
