"""What a plan may state of its tasks, for prices without models and data: measured where they are.

    python benchmarks/plan_sizes.py studies/embedded/C-F3.yaml

prints `prunable:` and `sizes:` as the plan holds them. A task whose model is not there is measured
on untrained weights: `ticketry pretrain --config recipes/pretrain-NAME.yaml --stop-at 0`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ticketry.studies.grid import Scenes
from ticketry.studies.planfile import read_plan


def main() -> None:
    """Print the lines for each plan that is named."""
    for path in sys.argv[1:]:
        spec = read_plan(Path(path))
        scenes = Scenes(spec, lambda line: print(line, file=sys.stderr))
        found = {task: scenes.of(task) for task in spec.tasks}
        own = [scene for scene in found.values() if scene.base.name == spec.model]
        prunable = (own or list(found.values()))[0].prunable
        print(f"# Measured by `python benchmarks/plan_sizes.py {path}`; tokens are the")
        print("# multiplications of one image for each weight in scope.")
        print(f"prunable: {prunable}")
        print("sizes:")
        for task, scene in found.items():
            sizes = scene.sizes
            tokens = scene.flops_per_pass / (6.0 * prunable)
            print(
                f"  {task}: {{train: {sizes.train}, validation: {sizes.validation}, "
                f"test: {sizes.test}, tokens: {tokens:.4g}}}"
            )


if __name__ == "__main__":
    main()
