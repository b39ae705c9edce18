"""One process of a data-parallel Trainer with a ticket: writes what it ended with, as JSON.

Arguments: the model's folder, the ticket's folder, an output folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from ticketry import Ticket, TicketCallback
from ticketry.models.loading import canonical_parameters

model_folder, ticket_folder, out = sys.argv[1:]
ticket = Ticket.from_pretrained(ticket_folder)
torch.manual_seed(0)  # the head
model = AutoModelForSequenceClassification.from_pretrained(model_folder)
draw = torch.Generator().manual_seed(1)
data = [
    {
        "input_ids": torch.randint(5, 20, (6,), generator=draw),
        "attention_mask": torch.ones(6, dtype=torch.long),
        "labels": index % 2,
    }
    for index in range(32)
]
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=out,
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        weight_decay=0.1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    ),
    train_dataset=data,
    callbacks=[TicketCallback(ticket)],
)
trainer.train()
Path(out).mkdir(exist_ok=True)
parameters = canonical_parameters(model)
digest = hashlib.sha256()
for tensor in model.state_dict().values():
    digest.update(tensor.numpy().tobytes())
found = {
    "wrapped": type(trainer.model_wrapped).__name__,
    "steps": trainer.state.global_step,
    "revived": sum(
        int(parameters[n].detach()[~ticket.mask[n]].count_nonzero()) for n in ticket.mask
    ),
    "kept": sum(int(parameters[n].detach()[ticket.mask[n]].count_nonzero()) for n in ticket.mask),
    "digest": digest.hexdigest(),
}
Path(out, f"rank{trainer.args.process_index}.json").write_text(json.dumps(found))
