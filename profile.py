"""Phase 2: record which FFN neurons each direction uses; show how many it needs, and how many it shares (section 3).

    RUN/base.pt + validation split  ->  RUN/activations.pt, tables
"""
if __name__ == '__main__':
    import time
    from pathlib import Path

    from minispec import UserError, cli
    from minispec.checkpoint import fingerprint, load_checkpoint, write
    from minispec.corpora import open_corpus
    from minispec.data import Bitext
    from minispec.neurons import overlap, record, select
    from minispec.training import pick_device
else:
    # This file's name hides the standard library's `profile`. Whoever imports it, as torch does through `cProfile` when
    # the first optimizer is built, wants that module: hand it out. So nothing reusable may live in this file.
    import importlib.util
    import sysconfig

    _spec = importlib.util.spec_from_file_location('_profile', f'{sysconfig.get_path("stdlib")}/profile.py')
    _profile = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_profile)

    def __getattr__(name):
        return getattr(_profile, name)


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_selection_flags(parser)
    parser.add_argument('--layer', help="layer whose IoU table is shown, as enc1 or dec3 (default: each side's last)")
    return parser.parse_args()


def main():
    args = arguments()
    cli.print_settings(args)
    model, vocabulary, tasks, *_ = load_checkpoint(Path(args.run) / 'base.pt')
    n = model.config.layers
    layers = [f'enc{i + 1}' for i in range(n)] + [f'dec{i + 1}' for i in range(n)]
    if args.layer not in (None, *layers):
        raise UserError(f'--layer {args.layer}: the layers are {", ".join(layers)}')
    valid = Bitext(open_corpus(args.data), 'valid', tasks, vocabulary, model.config.max_len)

    device, start = pick_device(args.device), time.monotonic()
    base = fingerprint(model)
    activations = record(model.to(device), (batch.to(device) for batch in valid.in_order(4096)))
    path = Path(args.run) / 'activations.pt'
    write(path, {'kind': 'activations', 'base': base, 'tasks': tasks, **activations})
    print(f'recorded {len(valid):,} sentence pairs in {time.monotonic() - start:.1f} s')

    masks = select(activations[args.count], args.k)  # (N, L, F)
    iou, chance = overlap(masks)  # (L, N, N)
    print_layers(layers, tasks, masks, iou, chance)
    for name in [args.layer] if args.layer else [layers[n - 1], layers[-1]]:
        print_overlap(name, tasks, iou[layers.index(name)], chance[layers.index(name)])
    print(f'wrote {path}; next: python specialize.py --data {args.data} --run {args.run} '
          f'--k {args.k:g} --count {args.count}')


def print_layers(layers, tasks, masks, iou, chance):
    """Sparsity and mean overlap of each layer, over the pairs of directions in which only that side's language differs.

    So the encoder compares de-en with fr-en, and the decoder en-de with en-fr, all else being equal. Directions from
    the same language are told apart by the decoder alone: on line-aligned text their encoder's IoU is 1 by design.
    """
    sides = [task.split('-') for task in tasks]
    print('\n       sparsity (least, most)   mean IoU   by chance')
    for layer, name in enumerate(layers):
        off = 1 - masks[:, layer].double().mean(-1)  # (N,)
        own = 0 if name.startswith('enc') else 1  # the encoder's language is the source, the decoder's the target
        pairs = [(a, b) for b in range(len(tasks)) for a in range(b)
                 if sides[a][own] != sides[b][own] and sides[a][1 - own] == sides[b][1 - own]]
        a, b = [a for a, b in pairs], [b for a, b in pairs]
        means = f'{iou[layer, a, b].mean():8.2f}   {chance[layer, a, b].mean():9.2f}' if pairs else '       -'
        print(f'{name:5}  {off.mean():8.2f} ({off.min():5.2f}, {off.max():4.2f})   {means}')
    print('IoU: mean over pairs of directions with the same target (encoder) or the same source (decoder).')


def print_overlap(name, tasks, iou, chance):
    """The IoU (N, N) of one layer, in hundredths so that many directions fit a terminal's width."""
    sides = [task.split('-') for task in tasks]
    by_chance = (chance.sum() - chance.trace()) / (len(tasks) * (len(tasks) - 1))  # mean off the diagonal
    print(f'\nIoU in {name}, in hundredths; chance alone gives {100 * by_chance:.0f}')
    left = max(map(len, tasks)) + 1
    width = max(4, *(len(language) + 1 for languages in sides for language in languages))
    for side in (0, 1):
        print(' ' * left + ''.join(f'{languages[side]:>{width}}' for languages in sides))
    for task, row in zip(tasks, iou.tolist()):
        print(f'{task:{left}}' + ''.join(f'{100 * value:{width}.0f}' for value in row))
    if name.startswith('enc'):
        print('(The encoder is told the source language alone: on line-aligned text, directions from one language use\n'
              'the same encoder neurons.)')
    print()


if __name__ == '__main__':
    cli.run(main)
