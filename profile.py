"""Phase 2: record which FFN neurons each direction uses; show their number and the overlap of directions (section 3).

    RUN/base.pt + validation split  ->  RUN/activations.pt, tables
"""
if __name__ == '__main__':
    import time
    from pathlib import Path

    import torch

    from minispec import UserError, cli, figures
    from minispec.checkpoint import DEFAULT_K, check_text, fingerprint, load_base, save_activations, selection_name
    from minispec.corpora import open_corpus, source
    from minispec.data import Bitext, read_lines
    from minispec.neurons import overlap, record, select
    from minispec.runtime import pick_device
    from minispec.tasks import split_task
    from minispec.training import validate
else:
    # This file's name hides the standard library's `profile`. An `import profile` means that module and gets it here:
    # torch does so, through `cProfile`, when the first optimizer is built. No other file can import from this one.
    import importlib.util
    import sysconfig

    _spec = importlib.util.spec_from_file_location('_profile', f'{sysconfig.get_path("stdlib")}/profile.py')
    _profile = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_profile)

    def __getattr__(name):
        return getattr(_profile, name)


DRAWS = 3  # sets of random neurons that --ablate compares with


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_selection_flags(parser)
    parser.add_argument('--layer', help="layer whose IoU table is shown, as enc1 or dec3 (default: each side's last)")
    parser.add_argument('--ablate', action='store_true',
                        help="ablate each direction's specific neurons and see how much every direction's loss rises; "
                             f'takes {1 + DRAWS}N + 1 validations for N directions')
    parser.add_argument('--plot', action='store_true', help='draw all that is shown; needs matplotlib')
    return parser.parse_args()


def subwords_of_languages(corpus, tasks, vocabulary):
    """The set of subwords that each language uses in the validation text, {language: ids}."""
    found = {}
    for task in tasks:
        for language, path in zip(split_task(task), corpus.files('valid', task)):
            found.setdefault(language, set()).update(*vocabulary.encode(list(read_lines(path))))
    return found


def ablation(profile, model, valid_data, seed):
    """The rise of every loss (columns) with one task's specific neurons ablated (rows), minus that with random ones."""
    least, start = profile.masks.sum(-1).min().item(), time.monotonic()
    if least < 2:
        raise UserError('--ablate takes neurons from a direction and must leave some, but one has a single neuron in a '
                        'layer; take a larger --k')
    n = max(1, least // 4)
    sets = figures.specific_neurons(profile.masks, n, DRAWS, seed)  # (1 + DRAWS, N, L, F)
    print(f'\n--ablate: {n} neurons of each layer, {DRAWS} random draws, {sets.shape[:2].numel() + 1} validations')
    rise = figures.ablate(model, sets.flatten(0, 1), lambda: validate(model, valid_data, 4096))  # ((1 + DRAWS) N, N)
    print(f'took {(time.monotonic() - start) / 60:.1f} min')
    by_specific, *by_random = rise.view(*sets.shape[:2], -1)  # (N, N) each
    return by_specific - torch.stack(by_random).mean(0)


def main():
    args = arguments()
    if args.plot:
        figures.new_figure()  # fails now, not after the work, if there is no matplotlib
    run = Path(args.run)
    base = load_base(run / 'base.pt')
    args.data = source(args.data or base.data['source'])
    cli.print_settings(args)
    model, tasks = base.model, base.tasks
    layers = figures.layer_names(model.config.layers)
    if args.layer not in (None, *layers):
        raise UserError(f'--layer {args.layer}: the layers are {", ".join(layers)}')
    shown = [args.layer] if args.layer else [layers[len(layers) // 2 - 1], layers[-1]]
    corpus = open_corpus(args.data)
    valid_data = Bitext(corpus, 'valid', tasks, base.vocabulary, model.config.max_len, args.run)
    check_text(base, args.data, valid_data)

    device, start = pick_device(args.device), time.monotonic()
    counts = record(model.to(device), (batch.to(device) for batch in valid_data.eval_batches(4096)))
    path = run / 'activations.pt'
    save_activations(path, base, counts)
    print(f'recorded {len(valid_data):,} sentence pairs in {time.monotonic() - start:.1f} s')
    start = time.monotonic()
    masks = select(counts[args.count], args.k)  # (N, L, F)
    print(f'selected in {time.monotonic() - start:.3f} s; no new parameters, {masks.nbytes:,} bytes of masks')

    profile = figures.Profile(tasks, masks, *overlap(masks), [base.data['pairs'][task] for task in tasks],
                              subwords_of_languages(corpus, tasks, base.vocabulary),
                              f'k = {args.k:g}, by {args.count}; base {fingerprint(model)}',
                              selection_name(args.k, args.k, args.count))
    figures.print_all(profile, shown)
    pictures = figures.draw_all(run, profile, shown) if args.plot else []
    if args.ablate:
        excess = ablation(profile, model, valid_data, args.seed)  # (N, N)
        figures.print_ablation(tasks, excess)
        pictures += figures.draw_ablation(run, profile, excess) if args.plot else []
    if pictures:
        print('drew ' + ', '.join(map(str, pictures)))
    flags = [] if args.k == DEFAULT_K else ['--k', f'{args.k:g}']
    flags += [] if args.count == 'token' else ['--count', args.count]
    args.seed = base.info['settings']['seed']  # the default of specialize.py
    print(f'wrote {path}; next: ' + cli.next_command('specialize.py', flags, args, base.data['source']))


if __name__ == '__main__':
    cli.run(main)
