"""Phase 4: translate sentences with any checkpoint, or score it on a test split.

    RUN/specialized.pt + standard input (or --input FILE)  ->  one line on standard output for each line
    RUN/specialized.pt + test split (--test)               ->  scores, RUN/test.specialized/
    RUN/specialized.pt + a direction (--slim)              ->  RUN/specialized.en-de.pt, its neurons and no others
"""
import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from minispec import UserError, cli
from minispec.checkpoint import load_checkpoint, make_folder, save_checkpoint, write
from minispec.corpora import open_corpus
from minispec.data import check_aligned, decode_lines, read_lines
from minispec.decoding import translate
from minispec.training import pick_device


def arguments():
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument('--model', default='specialized.pt', help='checkpoint: a path, or a name in --run')
    parser.add_argument('--beam', type=cli.positive(int), default=5, help='hypotheses side by side; 1 is greedy')
    parser.add_argument('--length-penalty', type=cli.length_penalty, default=1.0, help='divide scores by length to this power')
    text = parser.add_argument_group('to translate text')
    text.add_argument('--src', help='language to translate from')
    text.add_argument('--tgt', help='language to translate into')
    text.add_argument('--input', help='file to translate (default: standard input)')
    text.add_argument('--slim', action='store_true',
                      help='translate nothing, but save the model of --src and --tgt alone, without the other neurons')
    test = parser.add_argument_group('to score all directions')
    test.add_argument('--test', nargs='?', const='test', metavar='SPLIT', type=split,
                      help='score this split of --data: test if none is named, or say test_2018_flickr')
    test.add_argument('--compare', metavar='OTHER.pt', help='and test the difference to this checkpoint')
    args = parser.parse_args()
    if not args.test and not (args.src and args.tgt):
        parser.error('say what to translate: --src en --tgt de, or --test')
    if args.compare and not args.test:
        parser.error('--compare goes with --test')
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
    whole, _, direction = path.stem.partition('.')
    made_by = {'base': 'train.py', 'specialized': 'specialize.py'}.get(whole, f'specialize.py --control {whole}')
    checkpoint = load_checkpoint(path, f'translate.py --model {whole}.pt --slim' if '-' in direction else made_by)
    checkpoint.model.to(pick_device(args.device))
    return checkpoint


def slim(checkpoint, direction):
    """A checkpoint of one direction: what its masks leave out is neither kept nor computed."""
    model, _, tasks, *_ = checkpoint
    if direction not in tasks:
        raise UserError(f'this model does not translate {direction}; it knows {", ".join(tasks)}')
    return checkpoint._replace(model=model.slim(tasks.index(direction)), tasks=[direction], training=None)


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
        'translate.py', '--run', args.run, '--model', saved.name, '--src', args.src, '--tgt', args.tgt))


def translate_text(checkpoint, args):
    lines = read_lines(args.input) if args.input else decode_lines(sys.stdin.buffer, 'standard input')
    for line in run_model(checkpoint, list(lines), f'{args.src}-{args.tgt}', args):
        print(line)


def metrics_for(language):
    """BLEU with the tokenizer that the language needs, or over characters where that is not installed; and chrF++."""
    try:
        bleu = BLEU(trg_lang={'zho': 'zh', 'jpn': 'ja', 'kor': 'ko'}.get(language[:3], language[:2]))
    except RuntimeError:
        bleu = BLEU(tokenize='char')
    return {'BLEU': bleu, 'chrF++': CHRF(word_order=2)}


def read_pair(src_path, tgt_path):
    sources, references = list(read_lines(src_path)), list(read_lines(tgt_path))
    check_aligned(src_path, len(sources), tgt_path, len(references))
    return sources, references


def score_test(checkpoint, path, args):
    """Score every direction of the split; with --compare, also the difference to another checkpoint and its p-value."""
    other = load(find(args.compare, args), args) if args.compare else None
    corpus, tasks = open_corpus(args.data), checkpoint.tasks
    if other and not set(tasks) <= set(other.tasks):
        raise UserError(f'--compare {args.compare} translates {", ".join(other.tasks)}, not all of {", ".join(tasks)}')
    test = {direction: read_pair(*corpus.files(args.test, direction)) for direction in tasks}
    start, scores, translations, signatures = time.monotonic(), {}, {}, set()
    print('direction     BLEU   chrF++' + (f'   BLEU of {args.compare}   difference        p' if other else ''))
    for direction, (sources, references) in test.items():
        hypotheses = translations[direction] = run_model(checkpoint, sources, direction, args)
        metrics = metrics_for(direction.split('-')[1])
        row = {name: metric.corpus_score(hypotheses, [references]).score for name, metric in metrics.items()}
        signatures |= {f'{name}|{metric.get_signature()}' for name, metric in metrics.items()}
        if other:
            others = run_model(other, sources, direction, args)
            row |= bootstrap(metrics['BLEU'], others, hypotheses, references, args.seed)
        scores[direction] = row
        print(table_row(direction, row, args.compare))
    columns = ['BLEU', 'chrF++'] + (['other', 'difference'] if other else [])
    mean = {name: sum(row[name] for row in scores.values()) / len(scores) for name in columns}
    print(table_row('mean', mean, args.compare), *sorted(signatures), sep='\n')

    folder = Path(args.run) / f'{args.test}.{path.stem}'
    make_folder(folder)
    for direction, hypotheses in translations.items():
        write(folder / f'{direction}.txt', ''.join(f'{line}\n' for line in hypotheses))
    content = {'model': str(path), 'compare': args.compare, 'split': args.test, 'beam': args.beam,
               'length_penalty': args.length_penalty, 'scores': scores, 'mean': mean, 'signatures': sorted(signatures)}
    write(folder / 'scores.json', json.dumps(content, indent=2) + '\n')
    src, tgt = tasks[0].split('-')
    print(f'wrote {folder} in {(time.monotonic() - start) / 60:.1f} min; next, to translate what you type: '
          + cli.command('translate.py', '--run', args.run, '--model', args.model, '--src', src, '--tgt', tgt))


def bootstrap(metric, others, hypotheses, references, seed):
    """sacreBLEU's paired bootstrap of 1,000 samples: the other system's score, the difference and its p-value."""
    os.environ['SACREBLEU_SEED'] = str(seed + 1)  # it takes its seed from there, and 0 for none
    _, results = PairedTest([('other', others), ('this', hypotheses)], {'BLEU': metric}, [references], test_type='bs')()
    before, after = results['BLEU']
    p = 1.0 if others == hypotheses else after.p_value  # sacreBLEU would call a difference of 0 significant
    return {'other': before.score, 'difference': after.score - before.score, 'p': p}


def table_row(name, row, compare):
    line = f'{name:9} {row["BLEU"]:8.2f} {row["chrF++"]:8.2f}'
    if compare:
        line += f'   {row["other"]:{len("BLEU of " + compare)}.2f}   {row["difference"]:+10.2f}'
    return line + (f'   {row["p"]:6.3f}' if 'p' in row else '')


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
