"""Meta's Rebalancer (PyPI: rebalancer) on a start that comes as JSON on standard input.

Goals: one balance of each resource for each formula that is asked for. Hard: capacity where it holds already, and the cap
of moves. Single moves, then swaps, where no single move helps.
"""
import json
import sys
import time

from rebalancer import ProblemSolver

given = json.load(sys.stdin)
names = ["cpu", "connections", "storage"]
# The binary takes formulas by number: LINEAR, SQUARES, MAX, IDEAL, … in the order of its specs.py, from 1 on.
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
    for formula in given["formulas"]:
        goal = {"name": f"{name}-{formula}", "scope": "cell", "dimension": name, "formula": formula}
        solver.add_goal({"balanceSpec": goal}, 1.0)
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
kinds = [{"singleMoveTypeSpec": {}}, {"swapMoveTypeSpec": {}}]
solver.add_solver({"localSearchSolverSpec": {"solveTime": given["seconds"], "moveTypeList": kinds}})
began = time.monotonic()
solution = solver.solve()
took = time.monotonic() - began
print()
print(json.dumps({"assignment": dict(solution["assignment"]), "seconds": took}))
