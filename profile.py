"""Phase 2: record which FFN neurons each direction uses; show how many it needs, and how many it shares (section 3).

    RUN/base.pt + validation split  ->  RUN/activations.pt, tables
"""
if __name__ == '__main__':
    import time
    from pathlib import Path

    from minispec import UserError, cli, figures
    from minispec.checkpoint import fingerprint, load_base, write
    from minispec.corpora import open_corpus
    from minispec.data import Bitext, read_lines
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
    parser.add_argument('--plot', action='store_true', help='draw Figures 1, 2 and 5 of the paper; needs matplotlib')
    return parser.parse_args()


def main():
    args = arguments()
    if args.plot:
        figures.new_figure()  # fails now, not after the work, if there is no matplotlib
    cli.print_settings(args)
    model, vocabulary, tasks, *_ = load_base(Path(args.run) / 'base.pt')
    n = model.config.layers
    layers = [f'enc{i + 1}' for i in range(n)] + [f'dec{i + 1}' for i in range(n)]
    if args.layer not in (None, *layers):
        raise UserError(f'--layer {args.layer}: the layers are {", ".join(layers)}')
    corpus = open_corpus(args.data)
    valid = Bitext(corpus, 'valid', tasks, vocabulary, model.config.max_len, args.run)

    device, start = pick_device(args.device), time.monotonic()
    base = fingerprint(model)
    activations = record(model.to(device), (batch.to(device) for batch in valid.in_order(4096)))
    path = Path(args.run) / 'activations.pt'
    write(path, {'kind': 'activations', 'base': base, 'tasks': tasks, **activations})
    print(f'recorded {len(valid):,} sentence pairs in {time.monotonic() - start:.1f} s')

    masks = select(activations[args.count], args.k)  # (N, L, F)
    iou, chance = overlap(masks)  # (L, N, N)
    shown = [args.layer] if args.layer else [layers[n - 1], layers[-1]]
    figures.print_layers(layers, tasks, masks, iou, chance)
    pairs = [sum(1 for _ in read_lines(corpus.files('train', task)[0])) for task in tasks]
    figures.print_families(layers, tasks, pairs, iou, chance)
    for name in shown:
        figures.print_overlap(name, tasks, iou[layers.index(name)], chance[layers.index(name)])
    if args.plot:
        run = Path(args.run)
        pictures = [*figures.draw_overlap_by_layer(run, layers, tasks, iou, chance),
                    *figures.draw_sparsity(run, layers, tasks, masks)]
        for name in shown:
            pictures += figures.draw_overlap(run, name, tasks, iou[layers.index(name)], chance[layers.index(name)])
        print('drew ' + ', '.join(str(path) for path in pictures))
    print(f'wrote {path}; next: ' + cli.command('specialize.py', '--data', args.data, '--run', args.run,
                                                '--k', f'{args.k:g}', '--count', args.count))


if __name__ == '__main__':
    cli.run(main)
