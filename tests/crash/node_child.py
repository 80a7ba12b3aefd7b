"""``wattd`` under a plan: ``python -m tests.crash.node_child run --datadir DIR``.

The plan is in $WATTD_CRASH_PLAN. The command line is that of ``wattd``. Limits are replaced before anything
else is imported.
"""

import os
import resource
import sys

from storage import limits
from tests.crash.node_faults import PLAN_VARIABLE, Plan, install


def main() -> None:
    plan = Plan.from_json(os.environ[PLAN_VARIABLE])
    for name, value in plan.limits.items():
        setattr(limits, name, value)
    import node.app
    import node.cli.main
    import node.cli.store

    install(plan)  # by now every module that writes is there to be found
    if plan.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.file_bytes, plan.file_bytes))
    sys.exit(node.cli.main.run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
