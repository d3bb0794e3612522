"""A process of a training on several ranks that selects as on a GPU (``crossdiff.crosscoders.sparse.is_synchronous``)."""

import sys

from crossdiff.crosscoders import parallel, sparse

if __name__ == "__main__":
    sparse.is_synchronous = lambda _device: False
    parallel.main(sys.argv[1])
