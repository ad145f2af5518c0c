"""Phase 4: translate sentences with any checkpoint, or score it on a test split.

    RUN/specialized.pt + standard input (or --input FILE)  ->  one line on standard output for each line
    RUN/specialized.pt + test split (--test)               ->  scores, RUN/test.specialized/
    RUN/specialized.pt + a direction (--slim)              ->  RUN/specialized.en-de.pt, its neurons and no others
"""
import argparse
import json
import re
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from minispec import UserError, cli, scoring
from minispec.checkpoint import load_checkpoint, make_folder, save_checkpoint, write
from minispec.corpora import open_corpus
from minispec.data import check_aligned, decode_lines, read_lines
from minispec.decoding import translate
from minispec.neurons import zero_shot
from minispec.training import pick_device


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('--model', default='specialized.pt', help='checkpoint: a path, or a name in --run')
    parser.add_argument('--beam', type=cli.positive_int, default=5, help='hypotheses side by side; 1 is greedy')
    parser.add_argument('--length-penalty', type=cli.length_penalty, default=1.0,
                        help='divide scores by length to this power')
    parser.add_argument('--src', help='language to translate from')
    parser.add_argument('--tgt', help='language to translate into')
    text = parser.add_argument_group('to translate text')
    text.add_argument('--input', help='file to translate (default: standard input)')
    text.add_argument('--slim', action='store_true',
                      help='translate nothing, but save the model of --src and --tgt alone, without the other neurons')
    test = parser.add_argument_group('to score all directions, or that of --src and --tgt')
    test.add_argument('--test', nargs='?', const='test', metavar='SPLIT', type=split,
                      help='score this split of --data: test if none is named, or say test_2018_flickr')
    test.add_argument('--compare', metavar='OTHER.pt', help='and test the difference to this checkpoint')
    args = parser.parse_args()
    if bool(args.src) != bool(args.tgt) or not (args.src or args.test):
        parser.error('say what to translate: --src en --tgt de, or --test, or both')
    if args.compare and not args.test:
        parser.error('--compare goes with --test')
    if bool(args.test) + args.slim + (args.input is not None) > 1:
        parser.error('only one of --test, --slim and --input')
    return args


def split(text):
    if not re.fullmatch(r'\w[\w.-]*', text):  # it names files of the corpus, and the folder of the translations
        raise argparse.ArgumentTypeError(f'{text} is not the name of a split')
    return text


def find(name, args):
    """The checkpoint of that name in the run folder, or else at that path."""
    path = Path(args.run) / name
    return path if path.is_file() or not Path(name).is_file() else Path(name)


def load(path, args):
    """The checkpoint at `path`. It need not have been trained on the direction of --src and --tgt to know it then."""
    whole, _, alone = path.stem.partition('.')
    made_by = {'base': 'train.py', 'specialized': 'specialize.py'}.get(whole, f'specialize.py --control {whole}')
    checkpoint = load_checkpoint(path, f'translate.py --model {whole}.pt --slim' if '-' in alone else made_by)
    model, tasks, direction = checkpoint.model, checkpoint.tasks, f'{args.src}-{args.tgt}'
    if args.src and direction not in tasks:
        try:
            mask, encoder, decoder = zero_shot(model.masks, tasks, direction)  # (L, F)
        except ValueError as error:
            raise UserError(f'{path} does not translate {direction}: {error}; it knows {", ".join(tasks)}')
        print(f'{path} was not trained on {direction}: zero-shot, with the encoder neurons of {encoder} and the '
              f'decoder neurons of {decoder}', file=sys.stderr)
        model.masks, checkpoint = torch.cat([model.masks, mask[None]]), checkpoint._replace(tasks=[*tasks, direction])
    model.to(pick_device(args.device))
    return checkpoint


def slim(checkpoint, direction):
    """A checkpoint of one direction: what its masks leave out is neither kept nor computed."""
    model = checkpoint.model.slim(checkpoint.tasks.index(direction))
    return checkpoint._replace(model=model, tasks=[direction], training=None)


def run_model(checkpoint, lines, direction, args):
    """Translate `lines`; warnings name those that had to be cut."""
    model, vocabulary, *_ = slim(checkpoint, direction)
    result, too_long = translate(model, vocabulary, lines, direction, 0, args.beam, args.length_penalty)
    for number in too_long:
        print(f'warning: {direction}, line {number} is longer than the {model.config.max_len} positions of the model '
              'and was cut', file=sys.stderr)
    return result


def save_slim(checkpoint, path, args):
    direction = f'{args.src}-{args.tgt}'
    slimmed, saved = slim(checkpoint, direction), path.with_suffix(f'.{direction}.pt')
    save_checkpoint(saved, slimmed)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (checkpoint.model, slimmed.model))
    print(f'wrote {saved} with {after:,} parameters of {before:,}; next: ' + cli.command(
        'translate.py', '--run', args.run, '--model', saved, '--src', args.src, '--tgt', args.tgt))


def translate_text(checkpoint, args):
    lines = read_lines(args.input) if args.input else decode_lines(sys.stdin.buffer, 'standard input')
    for line in run_model(checkpoint, list(lines), f'{args.src}-{args.tgt}', args):
        print(line)


def read_pair(src_path, tgt_path):
    sources, references = list(read_lines(src_path)), list(read_lines(tgt_path))
    check_aligned(src_path, len(sources), tgt_path, len(references))
    return sources, references


def score_test(checkpoint, path, args):
    """Score a split in every direction, or in that of --src and --tgt; with --compare, against another checkpoint."""
    other = load(find(args.compare, args), args) if args.compare else None
    directions = [f'{args.src}-{args.tgt}'] if args.src else checkpoint.tasks
    if other and not set(directions) <= set(other.tasks):
        raise UserError(f'--compare {args.compare} translates {", ".join(other.tasks)}, '
                        f'not all of {", ".join(directions)}')
    corpus, averaged = open_corpus(args.data), {}
    if not args.src:
        averaged = scoring.groups(corpus.lines(directions))
    test = {direction: read_pair(*corpus.files(args.test, direction)) for direction in directions}
    start = time.monotonic()

    def translations(system):
        return {direction: run_model(system, sources, direction, args)
                for direction, (sources, _) in tqdm(test.items(), unit='direction', disable=None)}

    hypotheses, others = translations(checkpoint), translations(other) if other else None
    rows, means, signatures = scoring.score({direction: references for direction, (_, references) in test.items()},
                                            hypotheses, others, averaged, args.seed)
    content = {'model': str(path), 'compare': args.compare, 'split': args.test, 'beam': args.beam,
               'length_penalty': args.length_penalty, 'scores': rows, 'means': means, 'signatures': signatures}
    scoring.print_scores(rows, means, args.compare and Path(args.compare).name)
    if other:
        content['verdicts'] = found = scoring.verdicts(rows)
        print('{wins} wins, {ties} ties, {losses} losses (Holm\'s p < 0.05); {up} up, {down} down'.format(**found))
    print(*scoring.alarms(rows), *signatures, sep='\n')

    folder = Path(args.run) / '.'.join([args.test, path.stem, *directions[:bool(args.src)]])
    make_folder(folder)
    for direction, lines in hypotheses.items():
        write(folder / f'{direction}.txt', ''.join(f'{line}\n' for line in lines))
    write(folder / 'scores.json', json.dumps(content, indent=2) + '\n')
    src, tgt = directions[0].split('-')
    print(f'wrote {folder} in {(time.monotonic() - start) / 60:.1f} min; next, to translate what you type: '
          + cli.command('translate.py', '--run', args.run, '--model', args.model, '--src', src, '--tgt', tgt))


def main():
    args = arguments()
    path = find(args.model, args)
    checkpoint = load(path, args)
    if args.test:
        cli.print_settings(args)
        score_test(checkpoint, path, args)
    elif args.slim:
        save_slim(checkpoint, path, args)
    else:
        translate_text(checkpoint, args)


if __name__ == '__main__':
    cli.run(main)
