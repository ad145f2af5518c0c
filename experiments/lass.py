"""LaSS (Lin, Wu, Wang and Li, ACL 2021), another method: masks over weights, not over neurons.

    python experiments/lass.py --run RUN    RUN/base.pt  ->  RUN/lass.en-de.pt, ... for every direction

1. Fine-tune the base on each direction alone, for --tune-steps. 2. In each linear layer of attention and FFNs, a
direction keeps the share --keep of the weights: those with the largest absolute values. 3. Continue the training of the
base with all directions, as specialize.py does; each uses only the weights that it keeps. Each direction is saved as an
ordinary checkpoint of its own.

With --random, a control, a direction keeps the same number of random weights; the files are RUN/random-lass.TASK.pt.
"""
import copy
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from going_on import start  # first: it finds minispec
from torch.func import functional_call
from tqdm import tqdm

from minispec import cli
from minispec.checkpoint import load_base, load_checkpoint, save_checkpoint
from minispec.corpora import open_corpus
from minispec.data import Bitext
from minispec.model import Transformer, target_mask
from minispec.runtime import pick_device
from minispec.training import make_optimizer, train, train_step


class LaSS(Transformer):
    """A Transformer in which each task uses a part of the weights: `kept`, {name of a weight: bool (N, *its shape)}."""
    kept = {}

    def weights_of(self, task):
        """The masked weights of a task, {name: tensor}. All tasks share the parameters that are not listed."""
        weights = dict(self.named_parameters())
        return {name: weights[name] * kept[task] for name, kept in self.kept.items()}

    def forward(self, src, tgt, task, alone=False):
        """As Transformer.forward, one task's sentences at a time, with its weights; if `alone`, these are in place."""
        if alone:
            return super().forward(src, tgt, task)
        real = target_mask(tgt)  # (B, T)
        of_token = task[:, None].expand_as(real)[real]  # (n,): the task of each token
        result = torch.zeros(len(of_token), self.config.d_model, device=src.device)  # (n, D)
        for each in task.unique().tolist():
            rows = task == each  # (B,)
            inputs = src[rows], tgt[rows], task[rows]
            x = functional_call(self, self.weights_of(each), inputs, {'alone': True})  # (n of the task, D)
            result = result.masked_scatter((of_token == each)[:, None], x.float())
        return result


def largest(model, keep, size=torch.abs):
    """Which weights of attention and FFNs are in the share `keep` of largest `size` in their layer? {name: bool}"""
    found = {}
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and name != 'embedding.weight':
            rank = size(weight).flatten().argsort(descending=True).argsort()  # (weights,)
            found[name] = (rank < round(keep * weight.numel())).view_as(weight)
    return found


def find_weights(base, corpus, args):
    """Fine-tune the base on each task alone. Returns which weights each keeps, a dict {name: bool} for each task."""
    found, device, start = [], pick_device(args.device), time.monotonic()
    for task in tqdm(base.tasks, unit='direction', disable=None):
        model = copy.deepcopy(base.model).to(device)
        text = Bitext(corpus, 'train', [task], base.vocabulary, model.config.max_len, Path(args.run) / 'lass' / task)
        optimizer = make_optimizer(model)
        optimizer.load_state_dict(copy.deepcopy(base.training['optimizer']))
        optimizer.param_groups[0]['lr'] = args.lr
        torch.manual_seed(args.seed)
        for index in islice(text.train_batches(args.batch_tokens, 1.0, args.seed), args.tune_steps):
            train_step(model, optimizer, [text.batch(index)], getattr(torch, base.dtype))
        found.append(largest(model.cpu(), args.keep))
    print(f'found the weights of {len(found)} directions in {(time.monotonic() - start) / 60:.1f} min')
    return found


def main():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_flags_to_go_on(parser)
    parser.add_argument('--keep', type=cli.probability, default=0.7, help="share of a layer's weights that stay")
    parser.add_argument('--tune-steps', type=cli.positive_int, default=100, help='fine-tuning steps on each direction')
    parser.add_argument('--random', action='store_true', help='keep random weights instead (a control), without tuning')
    args = parser.parse_args()
    run, name = Path(args.run), 'random-lass' if args.random else 'lass'
    base, path = load_base(run / 'base.pt'), run / f'{name}.pt'
    args, checkpoint, texts = start(parser, base, path, name)
    model = LaSS(base.model.config)
    model.load_state_dict(checkpoint.model.state_dict())
    # A resumed run finds the same weights again, because the seed is the same.
    torch.manual_seed(args.seed)
    kept = ([largest(model, args.keep, torch.rand_like) for _ in base.tasks] if args.random
            else find_weights(base, open_corpus(args.data), args))
    device = pick_device(args.device)
    model.kept = {each: torch.stack([task[each] for task in kept]).to(device) for each in kept[0]}  # (N, *its shape)
    if train(replace(checkpoint, model=model), *texts, path, args) is None and not path.exists():
        return print('all was finished before')
    best = load_checkpoint(path)
    model.load_state_dict(best.model.state_dict())
    for index, task in enumerate(base.tasks):
        part = Transformer(replace(model.config, n_tasks=1))
        part.load_state_dict({**model.state_dict(), **model.weights_of(index), 'masks': part.masks})
        info = {**best.info, 'valid': best.info['valid'][index:index + 1]}
        save_checkpoint(run / f'{name}.{task}.pt', replace(best, model=part, tasks=[task], info=info))
    path.unlink()  # without the masks over its weights, it is nobody's model
    losses = best.info['valid']
    print(f'wrote {run / name}.TASK.pt (validation loss {sum(losses) / len(losses):.3f})')


if __name__ == '__main__':
    cli.run(main)
