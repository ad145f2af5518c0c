"""Is a sub-network good because it is a direction's own, or because it is sparse? A control that is sparse alone.

    python experiments/neuron_dropout.py --run RUN    RUN/base.pt + RUN/activations.pt  ->  RUN/dropout.pt

It goes on from the base as specialize.py does. But at every step each direction keeps other neurons, drawn at random, as
many as Eq. 1 selects for it. These are scaled up as in dropout, and validation and translation use all neurons.
"""
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minispec import cli  # noqa: E402
from minispec.checkpoint import (checkpoint_name, fingerprint, load_activations, load_base,  # noqa: E402
                                 load_state)
from minispec.corpora import open_corpus, source  # noqa: E402
from minispec.data import Bitext  # noqa: E402
from minispec.masks import random_masks  # noqa: E402
from minispec.model import Transformer  # noqa: E402
from minispec.neurons import select  # noqa: E402
from minispec.training import go_on, train  # noqa: E402


class NeuronDropout(Transformer):
    """In training, each task has new random neurons each time, as many as it has in `own` (N, L, F)."""
    own = None

    def task_masks(self, task):
        if not self.training:
            return super().task_masks(task)
        seed = int(torch.randint(2 ** 31, ()))  # follows from that of the step
        kept = random_masks(self.own, seed) * (self.config.d_ff / self.own.sum(-1, keepdim=True))  # (N, L, F)
        return kept[task].unsqueeze(2).unbind(1)  # (B, L, 1, F) -> L x (B, 1, F)


def main():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_training_flags(parser)
    parser.set_defaults(**dict.fromkeys(cli.INHERITED))
    cli.add_selection_flags(parser)
    args = parser.parse_args()
    path = Path(args.run) / checkpoint_name('dropout', args.k, args.k, args.count)
    base = load_base(Path(args.run) / 'base.pt')
    activations = load_activations(Path(args.run) / 'activations.pt', base)
    if args.resume:
        checkpoint = load_state(path.with_suffix('.last.pt'), 'dropout')
        args = cli.resumed_settings(parser, path, checkpoint.info)
    else:
        cli.inherit(args, base.info)
        args.data = source(args.data or base.data['source'])
        checkpoint = replace(base, info={'phase': 'dropout', 'base': base.info}, base=fingerprint(base.model),
                             training=go_on(base))
    cli.print_settings(args)
    model = NeuronDropout(base.model.config)
    model.load_state_dict(checkpoint.model.state_dict())
    model.own = select(activations[args.count], args.k)  # (N, L, F)
    corpus, tasks = open_corpus(args.data), base.tasks
    texts = [Bitext(corpus, split, tasks, base.vocabulary, model.config.max_len, args.run)
             for split in ('train', 'valid')]
    best = train(replace(checkpoint, model=model), *texts, path, args)
    cli.print_result(path, best, cli.next_command('translate.py', ['--model', path.name], args, args.data))


if __name__ == '__main__':
    cli.run(main)
