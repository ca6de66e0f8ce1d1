"""Meta's Rebalancer (PyPI: rebalancer) on a start that comes as JSON on standard input.

Goals as its guide advises for balancing: the fullest cell first, then squares. Hard: capacity where it holds already,
and the cap of moves.
"""
import json
import sys
import time

from rebalancer import ProblemSolver

given = json.load(sys.stdin)
names = ["cpu", "connections", "storage"]
# The binary takes these by number: LINEAR, SQUARES, MAX, … in the order of its specs.py, from 1 on.
SQUARES, MAX = 2, 3
solver = ProblemSolver("bench", "bench")
solver.set_object_name("tenant").set_container_name("cell")
assignment = {cell: [] for cell in given["cells"]}
for tenant, cell, _ in given["tenants"]:
    assignment[cell].append(tenant)
solver.set_assignment(assignment)
for index, name in enumerate(names):
    solver.add_object_dimension(name, {tenant: size[index] for tenant, _, size in given["tenants"]})
    capacity = given["capacity"][index]
    solver.add_container_dimension(name, {cell: capacity for cell in given["cells"]})
    solver.add_constraint({"capacitySpec": {"name": f"fits-{name}", "scope": "cell", "dimension": name}})
    solver.add_goal(
        {"balanceSpec": {"name": f"max-{name}", "scope": "cell", "dimension": name, "formula": MAX}}, 1.0
    )
    solver.add_goal(
        {"balanceSpec": {"name": f"even-{name}", "scope": "cell", "dimension": name, "formula": SQUARES}}, 1.0
    )
solver.add_object_dimension("one", {tenant: 1.0 for tenant, _, _ in given["tenants"]})
solver.add_constraint(
    {
        "minimizeMovementSpec": {
            "name": "cap",
            "scope": "cell",
            "dimension": "one",
            "magicScaling": False,
            "doNotNormalize": True,
            "allowance": given["moves"],
        }
    }
)
kinds = [{"singleRandomStratifiedMoveTypeSpec": {}}, {"singleMoveTypeSpec": {}}, {"swapMoveTypeSpec": {}}]
solver.add_solver({"localSearchSolverSpec": {"solveTime": given["seconds"], "moveTypeList": kinds}})
began = time.monotonic()
solution = solver.solve()
took = time.monotonic() - began
print()
print(json.dumps({"assignment": dict(solution["assignment"]), "seconds": took}))
