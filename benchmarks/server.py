"""The product with one more provider, the in-process models of the benchmark: `python -m benchmarks.server CONFIG`."""

import sys

from benchmarks import models
from sessile import config
from sessile.compose import serving

if __name__ == "__main__":
    serving.serve(config.load(sys.argv[1]), providers={"bench": models.Provider()})
