"""The linker: a base and task vectors become one checkpoint."""

import os

# numpy's BLAS starts its threads when it is imported, and they would spin for 26 ms each before they sleep: a link
# multiplies no matrices by it but in the methods of whole matrices, where waking a thread costs nothing that shows.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
