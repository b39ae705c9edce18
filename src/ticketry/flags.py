"""The command line's options, each once: its type and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option(help="'minilm' (packaged), a Hugging Face folder, or a hub id.")
]
Revision = Annotated[str | None, typer.Option(help="Of the hub id: a branch, tag or commit.")]
Task = Annotated[
    str | None, typer.Option(help="A task that `ticketry tasks` lists, or a task's YAML file.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="CSV, TSV, JSON(L), parquet, .txt or CoNLL file, folder of images, or hub dataset id."
    ),
]
TextColumn = Annotated[str | None, typer.Option(help="The column of the text, or image.")]
PairColumn = Annotated[str | None, typer.Option(help="The column of the second text of a pair.")]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="The column of the class, number, names split by ';', or answers."),
]
LabelColumns = Annotated[
    str | None, typer.Option(help="Columns of 0 and 1, comma-separated, for multi-label.")
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="For --data: classification | regression | multi-label | causal-lm | masked-lm | "
        "extractive-qa | extractive-qa-v2 | token-classification | image-classification | "
        "detection | segmentation | simclr | moco | supervised."
    ),
]
DataConfig = Annotated[
    str | None, typer.Option(help="Of a hub dataset that has several configurations.")
]
TestSplit = Annotated[
    str | None, typer.Option(help="The split of a hub dataset to test on; default test.")
]
TestData = Annotated[
    str | None, typer.Option(help="A file to test on; otherwise a part is split off --data.")
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="embedded | paper | squad | images | photos | cifar | visda | pretrain | rounds | "
        "voc-boxes | voc-masks; by default embedded for minilm, images for lite0, photos on other "
        "models' images, pretrain on pre-training objectives, else paper."
    ),
]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training split.")]
Rate = Annotated[float | None, typer.Option(help="Of the optimizer, at its highest.")]
Decay = Annotated[float | None, typer.Option(help="Of weights, not of biases and norms.")]
Batch = Annotated[int | None, typer.Option(help="Examples an update.")]
Length = Annotated[int | None, typer.Option(help="Tokens a text; longer ones are cut and counted.")]
Samples = Annotated[int | None, typer.Option(help="Train on a stratified part of this size.")]
Dtype = Annotated[str | None, typer.Option(help="float32 | bfloat16 (autocast).")]
ImageSize = Annotated[
    int | None, typer.Option(help="Pixels that images are resized to; default: the model's own.")
]
Augment = Annotated[str | None, typer.Option(help="Training images: none | crop | crop-flip.")]
Detector = Annotated[
    str | None, typer.Option(help="fcos | retinanet | faster-rcnn, for detection.")
]
Detections = Annotated[
    int | None, typer.Option(help="Boxes that a detector keeps of an image (default 100).")
]
Temperature = Annotated[float | None, typer.Option(help="Of simclr and moco; default 0.5 and 0.2.")]
Queue = Annotated[int | None, typer.Option(help="Keys that moco keeps (default 4096).")]
KeyMomentum = Annotated[
    float | None, typer.Option(help="Of moco's momentum encoder (default 0.99).")
]
Seed = Annotated[int | None, typer.Option(help="Decides every random number of the run.")]
Device = Annotated[str | None, typer.Option(help="auto | cpu | cuda.")]
Workers = Annotated[
    int | None, typer.Option(help="Trainings side by side; one a core by default, 0: in-process.")
]
Threads = Annotated[int | None, typer.Option(help="Torch threads of one training (default 1).")]
StoreFolder = Annotated[
    Path | None, typer.Option(help="Finished steps, shared between runs; default OUT/store.")
]
Config = Annotated[Path | None, typer.Option(help="YAML with options; the command line wins.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print the steps and their cost, and stop.")]
Keep = Annotated[
    bool, typer.Option("--keep-model", help="Keep the first ticket replicate's model.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; the same command continues it.")]
Controls = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: random-layerwise, random, oneshot-theta0, reinit, reinit-scope, "
        "shuffled, complement, flips:0.1, noise:0.1; or none."
    ),
]

Sparsity = Annotated[float | None, typer.Option(help="Pruned / prunable, in [0, 1); default 0.4.")]
Method = Annotated[str | None, typer.Option(help="imp | one-shot | gradual.")]
Source = Annotated[
    str | None, typer.Option("--from", help="One-shot scores theta0 or trained weights.")
]
Levels = Annotated[int | None, typer.Option(help="Rounds of IMP.")]
RoundRate = Annotated[float | None, typer.Option(help="Pruned each round, such as 0.2.")]
RateOf = Annotated[str | None, typer.Option(help="remaining | original weights.")]
Grid = Annotated[str | None, typer.Option(help="The sparsity after each round: 0.2,0.36,0.488.")]
Rewind = Annotated[
    str | None,
    typer.Option(help="pretrained | step | lr (weights go on) | none (its schedule too)."),
]
RewindStep = Annotated[int | None, typer.Option(help="Optimizer steps, for --rewind step.")]
Start = Annotated[
    str | None, typer.Option(help="The ticket starts from pretrained or rewound weights.")
]
Criterion = Annotated[
    str | None,
    typer.Option(help="magnitude | random | snip | grasp | synflow | taylor | movement."),
]
Pattern = Annotated[
    str | None, typer.Option(help="unstructured | N:M such as 2:4 | blocks 4x4 | head | neuron.")
]
Allocation = Annotated[str | None, typer.Option(help="global | uniform | erk | given.")]
LayerDensities = Annotated[
    str | None,
    typer.Option(help="For given: PATTERN=DENSITY,… or a YAML file of them; the first match wins."),
]
FloorDensity = Annotated[
    float | None, typer.Option(help="Keep at least this share of every tensor.")
]
Calibration = Annotated[
    int | None, typer.Option(help="Batches over which a criterion's gradients are taken.")
]
GradualStart = Annotated[
    float | None, typer.Option(help="Share of the steps before gradual pruning; default 0.1.")
]
GradualEnd = Annotated[
    float | None, typer.Option(help="Share of the steps at its end; default 0.7.")
]
GradualUpdates = Annotated[
    int | None, typer.Option(help="How many times the mask shrinks; default 30.")
]
Scope = Annotated[
    list[str] | None,
    typer.Option(help="encoder | bert-paper | name patterns (! excludes); repeatable."),
]
Replicates = Annotated[int | None, typer.Option(help="Fine-tunings an arm; default 3, at least 2.")]
