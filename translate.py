"""Phase 4: translate sentences with any checkpoint, or score it on a test split.

    RUN/specialized.pt + standard input (or --input FILE)  ->  one line on standard output for each input line
    RUN/specialized.pt + test split (--test, the default)  ->  scores beside dense.pt and base.pt,
                                                               RUN/test.specialized/, RUN/report.html
    RUN/specialized.pt + a direction (--extract)           ->  RUN/specialized.en-de.pt, its sub-network
    RUN/specialized.pt + a direction (--export FOLDER)     ->  its sub-network for CTranslate2
"""
import argparse
import contextlib
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from minispec import UserError, cli, scoring
from minispec.checkpoint import load_checkpoint, origin, save_checkpoint, warn_of_other_base
from minispec.corpora import open_corpus, source
from minispec.data import Bitext, decode_lines, read_lines, read_test, words
from minispec.decoding import translate
from minispec.export import export
from minispec.files import make_folder, write
from minispec.masks import zero_shot_masks
from minispec.report import write_report
from minispec.runtime import pick_device
from minispec.tasks import join_task, split_task


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('--model', default='specialized.pt', help='checkpoint: a path, or the name of a file in --run')
    parser.add_argument('--beam', type=cli.positive_int, default=5, help='beam size; 1 is greedy search')
    parser.add_argument('--length-penalty', type=cli.length_penalty, default=1.0,
                        help="exponent of the length by which a hypothesis's log-probability is divided")
    parser.add_argument('--src', type=language, help='language to translate from')
    parser.add_argument('--tgt', type=language, help='language to translate into')
    text = parser.add_argument_group('to translate text')
    text.add_argument('--input', help='file to translate (default: standard input)')
    text.add_argument('--extract', action='store_true',
                      help='translate nothing, but save the sub-network of --src and --tgt as a smaller model')
    text.add_argument('--export', metavar='FOLDER',
                      help='translate nothing, but save that sub-network for CTranslate2, in 8-bit integers')
    test = parser.add_argument_group('to score all directions, or that of --src and --tgt')
    test.add_argument('--test', nargs='?', const='test', metavar='SPLIT', type=split_name,
                      help='score this split of --data, such as test_2018_flickr (test if none is named)')
    test.add_argument('--compare', nargs='*', metavar='OTHER.pt',
                      help='test also the difference from each of these checkpoints (default: dense.pt and base.pt, if '
                           'they are in --run)')
    args = parser.parse_args()
    if not (args.src or args.tgt or args.extract or args.export) and args.input is None:
        args.test = args.test or 'test'
    if bool(args.src) != bool(args.tgt) or not (args.src or args.test):
        parser.error('say what to translate: --src en --tgt de, or --test, or both')
    if args.compare is not None and not args.test:
        parser.error('--compare goes with --test')
    if [bool(args.test), args.extract, bool(args.export), args.input is not None].count(True) > 1:
        parser.error('only one of --test, --extract, --export and --input')
    args.task = join_task(args.src, args.tgt) if args.src else None
    return args


def language(text):
    if '-' in text:  # it separates the two languages of a direction
        raise argparse.ArgumentTypeError(f'{text}: a region or script follows an underscore, as in pt_BR')
    return text


def split_name(text):
    if not re.fullmatch(r'\w[\w.-]*', text):  # it names files of the corpus, and the folder of the translations
        raise argparse.ArgumentTypeError(f'{text} is not the name of a split')
    return text


def find(name, args):
    """The checkpoint of that name in the run folder, or else at that path."""
    path = Path(args.run) / name
    return path if path.is_file() or not Path(name).is_file() else Path(name)


def load(path, args):
    """The checkpoint at `path`, on its device. A direction that it was not trained on is added zero-shot."""
    checkpoint = load_checkpoint(path)
    warn_of_other_base(path, checkpoint)
    checkpoint.base, checkpoint.training = origin(checkpoint), None  # a base's own, before masks are added
    model, tasks = checkpoint.model, checkpoint.tasks
    if 2 * args.beam > model.config.vocab_size:
        raise UserError(f'--beam {args.beam} is more than half of the {model.config.vocab_size} subwords of {path}')
    if args.task and args.task not in tasks:
        mask, encoder, decoder = zero_shot_masks(model.masks, tasks, args.task)  # (L, F)
        neurons = f', with the encoder neurons of {encoder} and the decoder neurons of {decoder}' * (not mask.all())
        print(f'{path} was not trained on {args.task}: zero-shot{neurons}', file=sys.stderr)
        model.masks = torch.cat([model.masks, mask[None]])  # (N + 1, L, F)
        checkpoint = replace(checkpoint, tasks=[*tasks, args.task])
    model.to(pick_device(args.device))
    return checkpoint


def extract(checkpoint, task):
    """A checkpoint of one task alone: the neurons that its masks leave out are neither kept nor computed."""
    model = checkpoint.model.sub_network(checkpoint.tasks.index(task))
    return replace(checkpoint, model=model, tasks=[task], training=None)


def save_extracted(checkpoint, path, args):
    part, saved = extract(checkpoint, args.task), path.with_suffix(f'.{args.task}.pt')
    save_checkpoint(saved, part)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (checkpoint.model, part.model))
    print(f'wrote {saved} with {after:,} parameters of {before:,}; next: ' + cli.next_command(
        'translate.py', ['--model', saved, '--src', args.src, '--tgt', args.tgt], args, args.data))


def translate_text(checkpoint, args):
    """Translate a file or standard input; from a terminal, line by line."""
    if args.input is None and getattr(sys.stdin, 'buffer', None) is None:
        raise UserError('there is no standard input; name a file with --input')
    if args.input is None and sys.stdin.isatty():
        print(f'{args.src} to {args.tgt}: type a sentence and press Enter; end with Ctrl-D (Windows: Ctrl-Z, Enter)',
              file=sys.stderr)
        texts = ([line] for line in decode_lines(sys.stdin.buffer, 'standard input'))
    else:
        lines = decode_lines(sys.stdin.buffer, 'standard input') if args.input is None else read_lines(args.input)
        texts = [list(lines)]
    part, known = extract(checkpoint, args.task), set(checkpoint.data['words'].get(args.src, ()))
    before = 0  # lines
    for lines in texts:
        if known and warn_of_new_words(lines, known, before):
            known = None  # once is enough
        translations, notes = translate(part, lines, args.task, args.beam, args.length_penalty)
        for cause, numbers in notes.items():
            listed = ', '.join(str(before + number) for number in numbers[:20])
            listed += f' and {len(numbers) - 20} more' * (len(numbers) > 20)
            print(f'warning: {args.task}, line{"s" * (len(numbers) > 1)} {listed}: {cause}', file=sys.stderr)
        for line in translations:
            print(line)
        before += len(lines)


def warn_of_new_words(lines, known, before):
    """Warn of the first line, after `before` others, with words that are not `known`. Returns whether there is one."""
    for number, line in enumerate(lines, before + 1):
        found = words(line)
        new = [word for word in found if word not in known]
        if new:
            print(f'warning: line {number}: {len(new)} of {len(found)} words are not in the training text '
                  f'({", ".join([*dict.fromkeys(new)][:5])}), so the translation is a guess; the next lines are not '
                  'checked', file=sys.stderr)
            return True
    return False


def translate_test(checkpoint, sources, name, args):
    """The translations of {task: lines}. A warning for each kind of problem counts the lines that have it."""
    hypotheses, counts = {}, {}
    for task in tqdm(sources, unit='direction', disable=None):
        part = extract(checkpoint, task)
        hypotheses[task], notes = translate(part, sources[task], task, args.beam, args.length_penalty)
        for cause, numbers in notes.items():
            counts.setdefault(cause, []).append(f'{task} {len(numbers)}')
    for cause, by_task in counts.items():
        print(f'warning: {name}: lines {cause}: {", ".join(by_task)}', file=sys.stderr)
    return hypotheses


def systems_to_compare(checkpoint, path, tasks, args):
    """The checkpoints that --compare names, {name: Checkpoint}. Notes say where systems differ in more than masks."""
    names, result = args.compare, {}
    if names is None and path.parent == Path(args.run):
        names = [name for name in ('dense.pt', 'base.pt') if path.with_name(name).exists() and name != path.name]
    for name in names or []:
        other = load(find(name, args), args)
        missing = [task for task in tasks if task not in other.tasks]
        if missing and args.compare:
            raise UserError(f'--compare {name} does not translate {", ".join(missing)}')
        if not args.compare and (missing or other.base != checkpoint.base):
            cause = f'does not translate {", ".join(missing)}' if missing else 'was made from another base'
            print(f'note: {name} is left out of the comparison, because it {cause}', file=sys.stderr)
            continue
        result[name] = other
        if other.base != checkpoint.base:
            print(f'note: {path} and {name} were not made from the same base', file=sys.stderr)
        elif 'base' in checkpoint.info and 'base' in other.info:  # both by specialize.py
            for flag in (*cli.TRAINING, 'restart'):
                one, another = (each.info['settings'].get(flag) for each in (checkpoint, other))
                if one != another:
                    print(f'note: {path} was trained with {flag} {one}, and {name} with {another}', file=sys.stderr)
    return result


def warn_of_changed_text(checkpoint, corpus, args):
    """Warn if the validation text has changed: then what is test text now may have been training text."""
    tasks = list(checkpoint.data['pairs'])
    if args.data == checkpoint.data['source'] and all(corpus.find('valid', task) for task in tasks):
        valid_data = Bitext(corpus, 'valid', tasks, checkpoint.vocabulary, checkpoint.model.config.max_len, args.run)
        if valid_data.text_fingerprint != checkpoint.data['valid']:
            print(f'warning: {args.data} has changed since the training', file=sys.stderr)


def score_test(checkpoint, path, args):
    """Score a split in every task, or in that of --src and --tgt, beside the systems of --compare."""
    tasks = [args.task] if args.task else checkpoint.tasks
    others = systems_to_compare(checkpoint, path, tasks, args)
    args.data = source(args.data or checkpoint.data['source'])
    cli.print_settings(args)
    corpus, start = open_corpus(args.data), time.monotonic()
    warn_of_changed_text(checkpoint, corpus, args)
    pairs = checkpoint.data['pairs']
    averaged = scoring.groups({task: pairs[task] for task in tasks if task in pairs})
    sources, references, text = read_test(corpus, args.test, tasks)
    systems = {args.model: checkpoint, **others}
    hypotheses = translate_test(checkpoint, sources, args.model, args)
    others = {name: translate_test(other, sources, name, args) for name, other in others.items()}
    found = scoring.score(references, hypotheses, others, averaged, args.seed)
    content = {'model': str(path), 'base': checkpoint.base, 'data': args.data, 'split': args.test,
               'text_fingerprint': text, 'seed': args.seed, 'compare': list(others), 'beam': args.beam,
               'length_penalty': args.length_penalty, **found}
    scoring.print_scores(found)
    if others:
        scoring.print_systems(found, args.model)

    folder = Path(args.run) / '.'.join([args.test, path.stem] + ([args.task] if args.task else []))
    write_scores(folder, content, hypotheses)
    texts = {'source': sources, 'reference': references, args.model: hypotheses, **others}
    curves = {name: find(name, args).with_suffix('.csv') for name in systems}
    report = '' if args.task else f' and {write_report(folder, content, systems, texts, curves)}'
    src, tgt = split_task(tasks[0])
    flags = ['--src', src, '--tgt', tgt] + (['--model', args.model] if args.model != 'specialized.pt' else [])
    print(f'wrote {folder}{report} in {(time.monotonic() - start) / 60:.1f} min; next, to translate what you type: '
          + cli.next_command('translate.py', flags, args, args.data))


def write_scores(folder, content, hypotheses):
    """Write scores.json and TASK.txt in place of older ones, with a note if these were of another model or text."""
    make_folder(folder)
    with contextlib.suppress(OSError, ValueError, KeyError):  # there are no older ones
        before = json.loads((folder / 'scores.json').read_text(encoding='utf-8'))
        if (before['model'], before['base']) != (content['model'], content['base']):
            print(f'note: {folder} held scores of {before["model"]}, base {before["base"]}; they are replaced',
                  file=sys.stderr)
        elif before['text_fingerprint'] != content['text_fingerprint']:
            print(f'note: {folder} held scores on another {content["split"]} text; they are replaced, and cannot be '
                  'compared', file=sys.stderr)
    for stale in folder.glob('*-*.txt'):
        stale.unlink()
    for task, lines in hypotheses.items():
        write(folder / f'{task}.txt', ''.join(f'{line}\n' for line in lines))
    write(folder / 'scores.json', json.dumps(content, indent=2) + '\n')


def main():
    args = arguments()
    path = find(args.model, args)
    checkpoint = load(path, args)
    if args.test:
        score_test(checkpoint, path, args)
    elif args.extract:
        save_extracted(checkpoint, path, args)
    elif args.export:
        example = export(extract(checkpoint, args.task), args.task, args.export)
        print(f'wrote {args.export}; to translate with it in Python:\n\n{example}')
    else:
        translate_text(checkpoint, args)


if __name__ == '__main__':
    cli.run(main)
