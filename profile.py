"""Phase 2: record which FFN neurons each direction uses; show how many it needs, and how many it shares (section 3).

    RUN/base.pt + validation split  ->  RUN/activations.pt, tables
"""
if __name__ == '__main__':
    import time
    from pathlib import Path

    import torch

    from minispec import UserError, cli, figures
    from minispec.checkpoint import fingerprint, load_base, write
    from minispec.corpora import open_corpus
    from minispec.data import Bitext, read_lines
    from minispec.neurons import overlap, private, record, select, silence
    from minispec.training import pick_device, validate
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
    parser.add_argument('--ablate', action='store_true',
                        help="silence each direction's own neurons and see what every direction loses; takes 2N + 1 "
                             'times as long as a validation of N directions')
    parser.add_argument('--plot', action='store_true', help='draw all that is shown; needs matplotlib')
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

    start = time.monotonic()
    masks = select(activations[args.count], args.k)  # (N, L, F)
    print(f'selected in {time.monotonic() - start:.3f} s; no parameter more, {masks.numel() / 8:,.0f} bytes of masks\n'
          '(how much longer an update takes: target tokens/s of specialize.py, with --control dense and without)')
    iou, chance = overlap(masks)  # (L, N, N)
    shown = [args.layer] if args.layer else [layers[n - 1], layers[-1]]
    figures.print_layers(layers, tasks, masks, iou, chance)
    sizes, pieces = list(corpus.lines(tasks).values()), {}
    for task in tasks:
        for language, text in zip(task.split('-'), corpus.files('valid', task)):
            pieces.setdefault(language, set()).update(*vocabulary.encode(list(read_lines(text))))
    figures.print_families(layers, tasks, sizes, pieces, iou, chance)
    trees = {name: figures.tree(tasks, name, iou[layers.index(name)]) for name in shown}
    for name in shown:
        figures.print_overlap(name, tasks, iou[layers.index(name)], chance[layers.index(name)])
        if trees[name][1]:
            figures.print_tree(name, *trees[name])
    if args.ablate:
        start, n = time.monotonic(), max(1, masks.sum(-1).min().item() // 4)
        print(f'\n--ablate: {n} neurons of each layer, {2 * len(tasks) + 1} validations')
        own, random = silence(model, torch.cat(private(masks, n, args.seed)),  # (2 N, L, F)
                              lambda: validate(model, valid, 4096)).chunk(2)  # (N, N) each
        figures.print_ablation(tasks, own - random)
        print(f'in {(time.monotonic() - start) / 60:.1f} min')
    if args.plot:
        run = Path(args.run)
        pictures = [*figures.draw_overlap_by_layer(run, layers, tasks, iou, chance),
                    *figures.draw_sparsity(run, layers, tasks, masks)]
        for name in shown:
            pictures += figures.draw_overlap(run, name, tasks, iou[layers.index(name)], chance[layers.index(name)])
            pictures += figures.draw_tree(run, name, *trees[name]) if trees[name][1] else []
        pictures += figures.draw_ablation(run, tasks, own - random) if args.ablate else []
        print('drew ' + ', '.join(str(path) for path in pictures))
    print(f'wrote {path}; next: ' + cli.command('specialize.py', '--data', args.data, '--run', args.run,
                                                '--k', f'{args.k:g}', '--count', args.count))


if __name__ == '__main__':
    cli.run(main)
