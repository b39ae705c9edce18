"""``ticketry pretrain``: an image model trained from scratch, into a folder that is a base.

OUT.work holds the run while it is under way (:mod:`ticketry.runs`) and is removed at its end;
OUT then has the model, ``run.json`` (what decided it), ``pretraining.json`` (what was measured, and
the hashes of the files) and ``times.json`` (seconds, which are never the same twice).
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ticketry.config import DEVICES, PRETRAINING, SCHEMA_VERSION, DataSpec, check_data
from ticketry.errors import ConfigError, InputError, nearest, unknown_name_message
from ticketry.execute import execute
from ticketry.files import (
    pretty_json,
    read_json,
    replace_folder,
    sha256_bytes,
    sha256_file,
)
from ticketry.jobs import Place, workers_for
from ticketry.options import OPTIONS, RECIPE_OPTIONS, build_recipe, check_types
from ticketry.pace import Pace
from ticketry.plan import say_seconds, weight
from ticketry.recipes import Recipe, check_recipe
from ticketry.runs import RUN_FILE, TIMES_FILE, check_run, open_run
from ticketry.scene import Scene, prepare
from ticketry.search import Sizes
from ticketry.steps import Context, Step, copy_model
from ticketry.tasks.base import TaskData
from ticketry.tasks.pretraining import check_channels, check_pretraining
from ticketry.tasks.registry import TASKS
from ticketry.tasks.sources import load_data
from ticketry.tasks.workload import SplitName

RECORD_FILE = "pretraining.json"
INIT_FOLDER = "init"
_TAKEN = ("data_config", "text_column", "label_column")
_RUN = ("seed", "device", "threads")
STOP_AT = "stop_at"
_KNOWN = frozenset({"objective", "model", "data", "recipe", *_TAKEN, *_RUN, *RECIPE_OPTIONS})


@dataclass(frozen=True)
class PretrainSpec:
    """Everything that decides a pre-trained model.

    Attributes:
        stop_at: share of the steps after which it ends, on the schedule of the whole; 0: the
            weights that the seed draws.
    """

    objective: str
    model: str
    data: DataSpec
    recipe: Recipe
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    stop_at: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        spec = dataclasses.asdict(self)
        spec["recipe"] = self.recipe.to_json()
        spec["data"]["label_columns"] = list(self.data.label_columns)
        if self.stop_at == 1.0:
            del spec["stop_at"]  # so that runs of earlier versions stay what they were
        return {"schema_version": SCHEMA_VERSION, "kind": "pretrain", **spec}


def build_pretrain_spec(options: Mapping[str, Any]) -> PretrainSpec:
    """Turn flat options into a checked spec.

    Raises:
        ConfigError: lists every fault at once.
    """
    stop_at = options.get(STOP_AT)
    options = {name: value for name, value in options.items() if name != STOP_AT}
    faults = [f"unknown option {n!r}." for n in sorted(set(options) - OPTIONS)]
    faults += check_types(options)
    if stop_at is not None and not _is_share(stop_at):
        faults.append(
            f"--stop-at is {stop_at!r}; expected a share of the steps from 0 (the weights that the "
            "seed draws) to 1 (the whole)."
        )
    if idle := sorted(n for n, v in options.items() if n in OPTIONS - _KNOWN and v is not None):
        faults.append(f"{', '.join(idle)} decide nothing of a pre-training; leave them out.")
    if faults:
        raise ConfigError(faults)
    given = {name: value for name, value in options.items() if value is not None}
    objective = str(given.get("objective", ""))
    if objective not in PRETRAINING:
        faults.append(
            unknown_name_message("--objective", objective, PRETRAINING)
            if objective
            else f"--objective is missing; give one of {', '.join(PRETRAINING)}."
        )
        objective = PRETRAINING[0]
    if not given.get("model"):
        faults.append("--model is missing; give an architecture of timm or a config.json.")
    data = DataSpec(
        data=str(given.get("data", "")),
        objective=objective,
        **{name: given[name] for name in _TAKEN if name in given},
    )
    name = str(data.data)
    if not name:
        faults.append("--data is missing; name a task of images, a folder or a hub data set.")
    elif f"{objective}/{name}" in TASKS:
        columns = [f"--{n.replace('_', '-')}" for n in _TAKEN if n in given]
        if columns:
            faults.append(f"{', '.join(columns)} go with a hub data set; {name} knows its columns.")
        data = DataSpec(task=f"{objective}/{name}")
    elif not Path(name).expanduser().exists() and "/" not in name:
        faults.append(_no_data(name))
    else:
        faults += check_data(data)
    recipe = build_recipe({"recipe": "pretrain", **given}, faults)
    faults += check_recipe(recipe)
    run = {n: given[n] for n in _RUN if n in given}
    if stop_at is not None:
        run[STOP_AT] = float(stop_at)
    spec = PretrainSpec(objective, str(given.get("model", "")), data, recipe, **run)
    if spec.device not in DEVICES:
        faults.append(unknown_name_message("--device", spec.device, DEVICES))
    if spec.threads < 1:
        faults.append(f"--threads is {spec.threads}; expected at least 1.")
    if not 0 <= spec.seed < 2**20:
        faults.append(f"--seed is {spec.seed}; expected a whole number in [0, {2**20}).")
    if faults:
        raise ConfigError(faults)
    return spec


def _no_data(name: str) -> str:
    if name in TASKS:
        return (
            f"--data {name}: that task is for {TASKS[name].objective}; expected images with a "
            "class each."
        )
    known = [task.name for task in TASKS.values() if task.objective == "image-classification"]
    close = nearest(name, known)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"--data {name!r} is neither a folder nor a task of image classification "
        f"({', '.join(known)}) nor a hub data set's id (OWNER/NAME).{hint}"
    )


def _is_share(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1


def run_pretrain(spec: PretrainSpec, place: Place) -> Mapping[str, Any]:
    """Train an image model from scratch and write it as a base that every command takes.

    Args:
        spec: what is trained on what.
        place: ``out`` is the model's folder; with ``plan_only`` nothing is written.
    Returns:
        The record, as in ``pretraining.json``; the priced plan where only that was asked for.

    Raises:
        InputError: the model, the data or the recipe cannot be used, or ``out`` is another's.
    """
    run = spec.to_json()
    work = place.out.with_name(place.out.name + ".work")
    if not place.plan_only:
        check_run(place.out, run)
        if (kept := _finished(place.out)) is not None:
            place.say(f"{place.out} is finished; nothing was done again")
            return kept
        check_run(work, run)
    scene, init = _set_scene(spec, place)
    step = _step(spec, scene)
    store = dataclasses.replace(place, out=work, store=None).outputs
    with tempfile.TemporaryDirectory() as folder:
        begun = dataclasses.replace(scene, context=_with_init(scene.context, Path(folder), init))
        trains = step.train_passes > 0 and not store.has(step.key)
        work_left = weight(step) * scene.flops_per_pass if trains else 0.0
        seconds = Pace().seconds(begun, work_left, 1)
    priced = {
        "title": _title(spec, scene),
        "steps": step.train_passes // scene.recipe.batch_size,
        "train_passes": step.train_passes,
        "eval_passes": step.eval_passes,
        "estimated_seconds": None if seconds is None else round(seconds),
    }
    _say_plan(priced, scene, place)
    if place.plan_only:
        return priced
    with open_run(work, run):
        context = _with_init(scene.context, work, init)
        store.write_data(context.data_sha256, scene.data.to_json())
        workers = min(workers_for(place, scene), 1)
        started = time.monotonic()
        if step.train_passes:
            untrained = _untrained(context, scene, ["validation"])
            execute([step], context, store, workers=workers, events=place.events)
            files, trained = copy_model(store, step.key), store.record(step.key)
        else:
            untrained = _untrained(context, scene, ["validation", "test"])
            files, trained = dict(init), {**_NOT_TRAINED, **untrained}
        record = _record(spec, scene, trained, untrained["validation_score"], files)
        seconds = time.monotonic() - started
        if step.train_passes:
            seconds = float(store.times(step.key).get("seconds", seconds))
        times = {"seconds": seconds, "versions": dict(context.versions), "device": context.device}
        written = {
            RUN_FILE: pretty_json(run),
            RECORD_FILE: pretty_json(record),
            TIMES_FILE: pretty_json(times),
        }
        replace_folder(place.out, {**files, **written})
    shutil.rmtree(work, ignore_errors=True)
    return record


def _set_scene(spec: PretrainSpec, place: Place) -> tuple[Scene, dict[str, bytes]]:
    """Check and bring together what is trained, and the model that it begins with."""
    from ticketry.models.fresh import CHANNELS, fresh_model

    data = load_data(spec.data, place.say)
    check_pretraining(data, spec.recipe)
    check_channels(data, CHANNELS)
    side = spec.recipe.image_size_px or _side(data)
    init = fresh_model(spec.model, side, spec.seed)
    with tempfile.TemporaryDirectory() as folder:
        replace_folder(Path(folder) / INIT_FOLDER, init)
        scene = prepare(
            str(Path(folder) / INIT_FOLDER),
            None,
            spec.data,
            dataclasses.replace(spec.recipe, image_size_px=side),
            ("encoder",),
            device=spec.device,
            threads=spec.threads,
            say=place.say,
        )
    return scene, init


def _side(data: TaskData) -> int:
    """Return the longer side of the first image, which is what is trained at if nothing is said."""
    height, width, _ = data.train.texts[0].partition(":")[0].split("x")
    return max(int(height), int(width))


def _with_init(context: Context, folder: Path, init: Mapping[str, bytes]) -> Context:
    """Write the model that a training begins with, and point a context at it."""
    path = folder / INIT_FOLDER
    replace_folder(path, init)
    return dataclasses.replace(context, base_name=str(path.absolute()))


_NOT_TRAINED = {"steps": 0, "train_examples": 0, "mean_loss": None, "final_loss": None}


def _step(spec: PretrainSpec, scene: Scene) -> Step:
    """Return the training; of no passes where it stops before its first step."""
    sizes: Sizes = scene.sizes
    batch = min(scene.recipe.batch_size, sizes.train)
    steps = sizes.passes(scene.recipe) // batch
    end = steps if spec.stop_at == 1.0 else round(spec.stop_at * steps)
    stop = {} if end == steps else {"end_step": end}
    return Step(
        name=f"pre-training by {spec.objective}, seed {spec.seed}",
        kind="replicate",
        params={"seed": spec.seed, "mask": "none", "keep_model": True, **stop},
        context_key=scene.context_key,
        train_passes=end * batch,
        eval_passes=sizes.validation + sizes.test,
    )


def _untrained(context: Context, scene: Scene, splits: Sequence[SplitName]) -> dict[str, float]:
    """Return the scores of the model that the training began with, on some splits."""
    from ticketry.models.loading import resolve
    from ticketry.tasks.objectives import workload_for

    workload = workload_for(resolve(context.base_name), scene.data, scene.recipe)
    model = workload.build(0, context.device)
    return {f"{split}_score": float(workload.evaluate(model, split).score) for split in splits}


def _title(spec: PretrainSpec, scene: Scene) -> str:
    return f"pre-train {spec.model} from scratch: {scene.data.name}"


def _say_plan(priced: Mapping[str, Any], scene: Scene, place: Place) -> None:
    seconds = priced["estimated_seconds"]
    about = "" if seconds is None else f", about {say_seconds(seconds)}"
    place.say(f"Plan: {priced['title']}")
    place.say(f"  recipe    {scene.recipe.describe()}")
    place.say(
        f"  {len(scene.data.train):,} images, {scene.prunable:,} prunable weights: "
        f"{priced['steps']:,} steps = {priced['train_passes']:,} training and "
        f"{priced['eval_passes']:,} evaluation passes{about}"
    )
    for note in scene.notes:
        place.say(f"  note: {note}")


def _record(
    spec: PretrainSpec,
    scene: Scene,
    trained: Mapping[str, Any],
    untrained: float,
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    kept = ("steps", "train_examples", "mean_loss", "final_loss")
    return {
        "schema_version": 1,
        "objective": spec.objective,
        "architecture": spec.model,
        "recipe": scene.recipe.to_json(),
        "data": {**scene.describe_data(), "sha256": scene.data.sha256},
        "seed": spec.seed,
        **({} if spec.stop_at == 1.0 else {"stop_at": spec.stop_at}),
        "prunable": scene.prunable,
        "parameters": scene.base.total_parameters,
        **{name: trained[name] for name in kept},
        "metric": scene.data.metric,
        "untrained_validation_score": untrained,
        "validation_score": trained["validation_score"],
        "test_score": trained["test_score"],
        "versions": dict(scene.context.versions),
        "files": {name: sha256_bytes(data) for name, data in sorted(files.items())},
    }


def _finished(out: Path) -> dict[str, Any] | None:
    """Return the record of a folder that is whole, None where something is to be done."""
    if not (out / RECORD_FILE).is_file():
        return None
    try:
        record: dict[str, Any] = read_json(out / RECORD_FILE, "the record")
        whole = all(sha256_file(out / n) == sha256 for n, sha256 in record["files"].items())
    except (OSError, InputError, KeyError, TypeError, AttributeError):
        return None
    return record if whole else None
