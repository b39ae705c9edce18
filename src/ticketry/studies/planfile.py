"""``PLAN.yaml`` read and checked: every fault at once, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ticketry.controls import parse_control
from ticketry.errors import ConfigError, nearest, unknown_name_message
from ticketry.options import as_names
from ticketry.studies.options import find_faults
from ticketry.studies.planwords import (
    ARM_KEYS,
    DATA_OPTIONS,
    KEYS,
    RECIPE_OPTIONS,
    SEARCH_OPTIONS,
    is_sparsity,
    option,
    searches_a_task,
)
from ticketry.studies.spec import (
    SAME,
    SCHEMA_VERSION,
    ArmSpec,
    Contrast,
    ControlSpec,
    StudySpec,
)
from ticketry.yamlfile import read_yaml


def read_plan(path: Path) -> StudySpec:
    """Read and check a plan.

    Raises:
        ConfigError: lists every fault at once.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"the plan {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"the plan {path} is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"the plan {path} holds {type(content).__name__}; expected `name: value` lines."
        )
    return build_plan({str(key): value for key, value in content.items()})


def build_plan(content: Mapping[str, Any]) -> StudySpec:
    """Check a plan's content.

    Raises:
        ConfigError: lists every fault at once.
    """
    reader = _Reader(content)
    spec = reader.read()
    faults = reader.faults
    if spec is not None:
        faults += find_faults(spec)
    if faults or spec is None:
        raise ConfigError(list(dict.fromkeys(faults)))
    return spec


class _Reader:
    """Reads a plan's fields and gathers what is wrong with them."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.faults: list[str] = []

    def read(self) -> StudySpec | None:
        """Return the plan, or None where its faults leave nothing to check further."""
        self._unknown(self.content, KEYS, "the plan")
        version = self.content.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            self.faults.append(
                f"the plan's schema_version is {version!r}; this ticketry reads {SCHEMA_VERSION}."
            )
        study = self._text("study", needed=True)
        model = self._text("model", needed=True)
        masks = self._count(self.content, "masks", 3, "the plan")
        tunings = self._count(self.content, "fine_tunings", 2, "the plan")
        recipe = self._options(self.content.get("recipe", {}), RECIPE_OPTIONS, "recipe")
        tasks = self._tasks()
        sources = self._names(self.content, "sources", tasks, "the plan")
        targets = self._names(self.content, "targets", tasks, "the plan", same=True)
        sparsities = self._sparsities(self.content, "the plan")
        arms = [
            arm
            for name, value in self._mapping("arms").items()
            if (arm := self._arm(str(name), value, tasks, sources, targets, sparsities, masks,
                                 tunings)) is not None
        ]  # fmt: skip
        controls = self._controls(arms)
        contrasts = self._contrasts(arms)
        sparsity_of = self._sparsity_of(tasks)
        if not tasks:
            self.faults.append("the plan names no tasks; give sources, targets or tasks.")
        if self.faults and (not study or not model or not tasks):
            return None
        used = [t for arm in arms for t in (*arm.sources, *arm.targets) if t != SAME]
        return StudySpec(
            study=study,
            title=self._text("title") or study,
            paper=self._text("paper"),
            model=model,
            revision=self._text("revision") or None,
            tasks={name: tasks[name] for name in tasks if name in {*used, *targets, *sources}},
            recipe=recipe,
            arms=tuple(arms),
            controls=controls,
            contrasts=contrasts,
            targets=tuple(dict.fromkeys(targets or used)),
            scope=as_names(self.content.get("scope", ("encoder",))),
            seed=self._count(self.content, "seed", 1, "the plan", least=0),
            device=self._text("device") or "auto",
            threads=self._count(self.content, "threads", 1, "the plan"),
            masks=masks,
            fine_tunings=tunings,
            half_budget=self._flag("half_budget", True),
            sparsity_of=sparsity_of,
            overlaps=self._flag("overlaps", True),
            prunable=self._count(self.content, "prunable", 0, "the plan", least=0),
            sizes=self._sizes(),
        )

    def _tasks(self) -> dict[str, dict[str, Any]]:
        """Return every task that the plan names anywhere, with its options."""
        tasks: dict[str, dict[str, Any]] = {}
        for name, value in self._mapping("tasks").items():
            known = (*DATA_OPTIONS, *RECIPE_OPTIONS)
            tasks[str(name)] = self._options(value or {}, known, f"task {name}")
        named = [self.content.get("sources"), self.content.get("targets")]
        for arm in self._mapping("arms").values():
            if isinstance(arm, Mapping):
                named += [arm.get("sources"), arm.get("targets")]
        for value in named:
            if isinstance(value, str | list):
                for name in as_names(value):
                    if name != SAME:
                        tasks.setdefault(name, {})
        return tasks

    def _arm(
        self,
        name: str,
        value: Any,
        tasks: Mapping[str, Any],
        sources: tuple[str, ...],
        targets: tuple[str, ...],
        sparsities: tuple[float, ...],
        masks: int,
        tunings: int,
    ) -> ArmSpec | None:
        where = f"arm {name}"
        if not isinstance(value, Mapping):
            self.faults.append(f"{where} is {value!r}; expected options of find, such as method.")
            return None
        value = {option(str(key)): item for key, item in value.items()}
        self._unknown(value, ARM_KEYS, where)
        search = {key: value[key] for key in SEARCH_OPTIONS if key in value}
        recipe = {key: value[key] for key in RECIPE_OPTIONS if key in value}
        if "sources" in value:
            own_sources = self._names(value, "sources", tasks, where)
        else:
            own_sources = sources if searches_a_task(search) else ()
        own_targets = self._names(value, "targets", tasks, where, same=True) or targets
        own = self._sparsities(value, where) or sparsities
        if not own and isinstance(search.get("grid"), list):
            own = tuple(search["grid"])
        if not own:
            self.faults.append(f"{where} has no sparsities; give them here or for the whole plan.")
        if not own_targets:
            self.faults.append(f"{where} has no targets; give tasks, or same.")
        if not own_sources and own_targets == (SAME,):
            own_targets = sources  # a mask of no task is looked at on all
        grid = search.get("grid")
        missing = []
        if isinstance(grid, list):
            missing = [s for s in own if not any(math.isclose(s, g) for g in grid)]
        if missing:
            self.faults.append(
                f"{where}: its grid {grid} does not pass sparsity "
                f"{', '.join(f'{s:g}' for s in missing)}; add it to the grid."
            )
        share = value.get("rewind_share")
        if share is not None and not (isinstance(share, float) and 0 < share < 1):
            self.faults.append(f"{where}: rewind_share is {share!r}; expected a number in (0, 1).")
            share = None
        elif (share is not None) != (
            search.get("rewind") == "step" and "rewind_step" not in search
        ):
            self.faults.append(
                f"{where}: rewind: step needs rewind_step or rewind_share, which go with no other "
                "rewind."
            )
        return ArmSpec(
            name=name,
            search=search,
            recipe=recipe,
            sources=own_sources,
            targets=own_targets,
            sparsities=own,
            masks=self._count(value, "masks", masks, where) if own_sources else 1,
            fine_tunings=self._count(value, "fine_tunings", tunings, where),
            rewind_share=share,
        )

    def _controls(self, arms: Sequence[ArmSpec]) -> tuple[ControlSpec, ...]:
        by_name = {arm.name: arm for arm in arms}
        controls = []
        for key, value in self._mapping("controls").items():
            where = f"control {key}"
            value = {} if value is None else value
            if not isinstance(value, Mapping):
                self.faults.append(f"{where} is {value!r}; expected of, sparsities, fine_tunings.")
                continue
            self._unknown(value, ("of", "sparsities", "fine_tunings"), where)
            try:
                parse_control(str(key))
            except ValueError as fault:
                self.faults.append(str(fault))
                continue
            of = str(value.get("of", arms[0].name if arms else ""))
            if of not in by_name:
                self.faults.append(f"{where}: {unknown_name_message('arm', of, by_name)}")
                continue
            arm = by_name[of]
            own = self._sparsities(value, where) or arm.sparsities
            if strange := [s for s in own if s not in arm.sparsities]:
                self.faults.append(
                    f"{where}: arm {of} has no masks at sparsity "
                    f"{', '.join(f'{s:g}' for s in strange)}; it has "
                    f"{', '.join(f'{s:g}' for s in arm.sparsities)}."
                )
            tunings = self._count(value, "fine_tunings", 1, where)
            if tunings > arm.fine_tunings:
                self.faults.append(
                    f"{where}: {tunings} fine-tunings a mask, but arm {of} has "
                    f"{arm.fine_tunings}; they are paired by seed."
                )
            controls.append(ControlSpec(str(key), of, own, tunings))
        return tuple(controls)

    def _contrasts(self, arms: Sequence[ArmSpec]) -> tuple[Contrast, ...]:
        by_name = {arm.name: arm for arm in arms}
        found = []
        for key, value in self._mapping("contrasts").items():
            where = f"contrast {key}"
            if not isinstance(value, Mapping):
                self.faults.append(f"{where} is {value!r}; expected a, b and margin.")
                continue
            self._unknown(value, ("a", "b", "margin", "decide_by_overlap"), where)
            sides = [str(value.get(side, "")) for side in ("a", "b")]
            for side in sides:
                if side not in by_name:
                    self.faults.append(f"{where}: {unknown_name_message('arm', side, by_name)}")
            margin = value.get("margin", 0.01)
            if isinstance(margin, bool) or not isinstance(margin, int | float) or margin <= 0:
                self.faults.append(f"{where}: margin is {margin!r}; expected a number above 0.")
                continue
            decides = value.get("decide_by_overlap", False)
            if not isinstance(decides, bool):
                self.faults.append(
                    f"{where}: decide_by_overlap is {decides!r}; expected true or false."
                )
                continue
            if decides and (
                alone := [side for side in sides if side in by_name and not by_name[side].sources]
            ):
                self.faults.append(
                    f"{where}: decide_by_overlap compares masks of one source, but those of "
                    f"{' and '.join(dict.fromkeys(alone))} have none; leave it out."
                )
                continue
            found.append(Contrast(str(key), sides[0], sides[1], float(margin), decides))
        return tuple(found)

    def _sizes(self) -> dict[str, dict[str, float]]:
        names = ("train", "validation", "test", "tokens")
        found = {}
        for task, value in self._mapping("sizes").items():
            if (
                not isinstance(value, Mapping)
                or set(value) != set(names)
                or not all(
                    isinstance(number, int | float) and number > 0 for number in value.values()
                )
            ):
                self.faults.append(
                    f"sizes of {task} are {value!r}; expected {', '.join(names)} as numbers "
                    "above 0."
                )
                continue
            found[str(task)] = {name: float(value[name]) for name in names}
        return found

    def _sparsity_of(self, tasks: Mapping[str, Any]) -> dict[str, float]:
        found = {}
        for name, value in self._mapping("sparsity_of").items():
            if name not in tasks:
                self.faults.append(f"sparsity_of: {unknown_name_message('task', str(name), tasks)}")
            elif not is_sparsity(value):
                self.faults.append(f"sparsity_of {name} is {value!r}; expected a number in [0, 1).")
            else:
                found[str(name)] = float(value)
        return found

    def _unknown(self, value: Mapping[str, Any], known: Sequence[str], where: str) -> None:
        for key in value:
            if key not in known:
                close = nearest(str(key), known)
                hint = f" Did you mean {' or '.join(close)}?" if close else ""
                self.faults.append(
                    f"{where} has the unknown name {key!r}; expected one of "
                    f"{', '.join(known)}.{hint}"
                )

    def _text(self, key: str, *, needed: bool = False) -> str:
        value = self.content.get(key)
        if value is None and not needed:
            return ""
        if not isinstance(value, str) or not value.strip():
            found = "missing" if value is None else repr(value)
            self.faults.append(f"{key} is {found}; expected text.")
            return ""
        return value

    def _flag(self, key: str, default: bool) -> bool:
        value = self.content.get(key, default)
        if not isinstance(value, bool):
            self.faults.append(f"{key} is {value!r}; expected true or false.")
            return default
        return value

    def _count(
        self, values: Mapping[str, Any], key: str, default: int, where: str, *, least: int = 1
    ) -> int:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.faults.append(
                f"{where}: {key} is {value!r}; expected a whole number from {least} on."
            )
            return default
        return value

    def _mapping(self, key: str) -> Mapping[Any, Any]:
        value = self.content.get(key) or {}
        if not isinstance(value, Mapping):
            self.faults.append(f"{key} is {value!r}; expected `name: …` lines.")
            return {}
        return value

    def _options(self, value: Any, known: Sequence[str], where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.faults.append(f"{where} is {value!r}; expected `option: value` lines.")
            return {}
        options = {option(str(key)): item for key, item in value.items()}
        self._unknown(options, known, where)
        return {key: item for key, item in options.items() if key in known}

    def _names(
        self,
        values: Mapping[str, Any],
        key: str,
        tasks: Mapping[str, Any],
        where: str,
        *,
        same: bool = False,
    ) -> tuple[str, ...]:
        value = values.get(key)
        if value is None:
            return ()
        if not isinstance(value, str | list):
            self.faults.append(f"{where}: {key} is {value!r}; expected names of tasks.")
            return ()
        names = as_names(value)
        if SAME in names and (not same or len(names) > 1):
            self.faults.append(
                f"{where}: {key} is {list(names)}; `same` is a value of targets, alone."
            )
        return names

    def _sparsities(self, values: Mapping[str, Any], where: str) -> tuple[float, ...]:
        value = values.get("sparsities")
        if value is None:
            return ()
        listed = value if isinstance(value, list) else [value]
        for item in listed:
            if not is_sparsity(item):
                self.faults.append(
                    f"{where}: the sparsity {item!r} is no number in [0, 1); write 0.4 for 40%."
                )
        return tuple(float(item) for item in listed if is_sparsity(item))
