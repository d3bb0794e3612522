"""A process of a training on several ranks that selects as on a GPU (``crossdiff.crosscoders.sparse.waits_are_free``)."""

import sys

from crossdiff.crosscoders import parallel, sparse

if __name__ == "__main__":
    sparse.waits_are_free = lambda _device: False
    parallel.main(sys.argv[1])
