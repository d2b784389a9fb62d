"""Memory in huge pages, which glibc requests from Linux only if a variable said so before the process began."""

import os
import sys


def use_huge_pages() -> None:
    """Restarts the running command once, with memory in huge pages; call this before doing anything else.

    XLA for CPUs takes the working memory of every step anew; in pages of 4 KiB, each mapped at its first touch, that
    costs 6 to 8 % of a step. Nothing happens except on Linux, nor where the user has set GLIBC_TUNABLES.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and sys.executable:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
