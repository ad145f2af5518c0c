"""Is a sub-network good because it is a direction's own, or because it is sparse? A control that is only sparse.

    python experiments/neuron_dropout.py --run RUN    RUN/base.pt + RUN/activations.pt  ->  RUN/dropout.pt

Training continues from the base as in specialize.py. But for every batch, each direction draws random neurons, as many
in each layer as Eq. 1 selects for it. Their outputs are scaled up as in dropout. Validation and translation use all
neurons. (With --k 95 the file is dropout.k95.pt, as in specialize.py.)
"""
from dataclasses import replace
from pathlib import Path

import torch
from going_on import start  # first: it finds minispec

from minispec import cli, figures
from minispec.checkpoint import checkpoint_name, load_activations, load_base
from minispec.masks import random_masks
from minispec.model import Transformer
from minispec.neurons import select
from minispec.training import train


class NeuronDropout(Transformer):
    """In training, each task draws random neurons for every batch, as many as it has in `own` (N, L, F)."""

    def __init__(self, config, own):
        super().__init__(config)
        self.register_buffer('own', own, persistent=False)

    def task_masks(self, task):
        if not self.training:
            return super().task_masks(task)
        seed = int(torch.randint(2 ** 31, ()))  # follows from the step's seed
        scale = self.config.d_ff / self.own.sum(-1, keepdim=True)  # (N, L, 1)
        kept = random_masks(self.own.cpu(), seed).to(scale.device) * scale  # (N, L, F)
        return kept[task].unsqueeze(2).unbind(1)  # (B, L, 1, F) -> L x (B, 1, F)


def main():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_flags_to_go_on(parser)
    cli.add_selection_flags(parser)
    args = parser.parse_args()
    path = Path(args.run) / checkpoint_name('dropout', args.k, args.k, args.count)
    base = load_base(Path(args.run) / 'base.pt')
    activations = load_activations(Path(args.run) / 'activations.pt', base)
    args, checkpoint, texts = start(parser, base, path, 'dropout')
    model = NeuronDropout(base.model.config, select(activations[args.count], args.k))
    model.load_state_dict(checkpoint.model.state_dict())
    best = train(replace(checkpoint, model=model), *texts, path, args)
    if args.plot:
        figures.draw_curve(path.with_suffix('.csv'))
    print(f'{path}: ' + ('nothing is left to train' if best is None else f'validation loss {best:.3f}'))


if __name__ == '__main__':
    cli.run(main)
