"""What the command lines of the four scripts share: flags with one meaning and one default, and errors of one line."""
import argparse
import contextlib
import math
import os
import shlex
import sys
from pathlib import Path

from torch import distributed

from minispec import UserError
from minispec.checkpoint import DEFAULT_K
from minispec.files import check_keys


def number(kind, what, accepts):
    """An argparse type: numbers of type `kind` that satisfy `accepts`. Other text is an error: it is not a `what`."""
    def convert(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if accepts(value):
                return value
        raise argparse.ArgumentTypeError(f'{text} is not a {what}')
    return convert


positive_int = number(int, 'whole number from 1 to 2147483647', lambda x: 1 <= x < 2 ** 31)
positive_float = number(float, 'number above 0', lambda x: 0 < x < math.inf)
seed = number(int, 'seed in 0 ... 4294967295', lambda x: 0 <= x < 2 ** 32)
percentage = number(float, 'percentage from 1 to 100, such as 95', lambda x: 1 <= x <= 100)
probability = number(float, 'probability in [0, 1)', lambda x: 0 <= x < 1)
length_penalty = number(float, 'length penalty in -10 ... 10', lambda x: -10 <= x <= 10)


# The flags that specialize.py takes from the base if they are not given, and their defaults in the other scripts.
INHERITED = {'batch_tokens': 512, 'accumulate': 1, 'lr': 3e-3, 'temperature': 1.5, 'seed': 1}
TRAINING = ('steps', *INHERITED, 'eval_every', 'patience')  # the flags that determine a training


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        if action.dest in INHERITED:
            return f'{action.help} (default: {INHERITED[action.dest]}; in specialize.py, that of the base)'
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message):
        raise UserError(message)


def parser(description):
    """A parser with the flags that every script has."""
    result = Parser(description=description, formatter_class=HelpFormatter)
    result.add_argument('--data', help='phrasebook or phrasebook-even (built in), multi30k (downloaded once), or a '
                                       'folder of parallel text (default: what the model was trained on; phrasebook in '
                                       'train.py)')
    result.add_argument('--run', default='runs/default', help='folder for everything that the four scripts write')
    result.add_argument('--device', default='auto', help='device to compute on: auto, cpu, cuda or mps')
    result.add_argument('--seed', type=seed, default=INHERITED['seed'],
                        help='seed of initial weights, batches, dropout, random masks and bootstrap samples')
    return result


def add_training_flags(result):
    """The flags of the loop that train.py and specialize.py share."""
    result.add_argument('--steps', type=positive_int, default=2000, help='number of training steps')
    result.add_argument('--batch-tokens', type=positive_int, default=INHERITED['batch_tokens'],
                        help='maximum number of source or target positions in a batch, padding included')
    result.add_argument('--accumulate', type=positive_int, default=INHERITED['accumulate'],
                        help='number of batches in a step (gradient accumulation)')
    result.add_argument('--lr', type=positive_float, default=INHERITED['lr'], help='peak learning rate')
    result.add_argument('--temperature', type=positive_float, default=INHERITED['temperature'],
                        help='temperature of sampling directions: 1 in proportion to training size, 5 more evenly')
    result.add_argument('--eval-every', type=positive_int, default=500, help='number of steps between two validations')
    result.add_argument('--patience', type=positive_int, default=10,
                        help='number of validations without a new best after which training ends')
    result.add_argument('--resume', action='store_true', help='continue the interrupted run, with its settings')
    result.add_argument('--plot', action='store_true', help='draw the training curve; needs matplotlib')


def add_flags_to_go_on(result):
    """The flags of the loop, for a script that continues the training of a base."""
    add_training_flags(result)
    result.set_defaults(**dict.fromkeys(INHERITED))
    result.add_argument('--restart', action='store_true',
                        help="do not continue the base's training, but start with a new optimizer, a new warm-up and "
                             'the first batches, as the released code does')


def inherit(args, info):
    """Set each flag of INHERITED that is not given to the base's value; `info` is the base's."""
    for name in INHERITED:
        if getattr(args, name) is None:
            setattr(args, name, info['settings'][name])


def add_selection_flags(result):
    """The flags of Eq. 1."""
    result.add_argument('--k', type=percentage, default=DEFAULT_K,
                        help="percentage of a layer's activity that the selected neurons carry")
    result.add_argument('--count', choices=['token', 'sentence'], default='token',
                        help='what to count: the tokens, or the sentences, for which a neuron is active')


def print_settings(args):
    """One line that says all settings in force."""
    print(' '.join(f'{name}={value}' for name, value in vars(args).items() if value is not None))


def resumed_settings(parser, path, info):
    """The settings of --resume: those in the `info` of the interrupted run that `path` holds.

    --run, --device and --plot are taken from the new command line, and --data if given, as the text may have moved.
    Raises UserError for any other flag that is given and differs from the run's.
    """
    def shown(flag, value):
        value = ' '.join(value) if isinstance(value, list) else value
        return f'without {flag}' if value in (None, False) else f'with {flag} {value}'

    saved = {name: value for name, value in info['settings'].items() if name not in ('run', 'device', 'resume', 'plot')}
    check_keys(path, info['settings'], vars(parser.parse_args()), 'settings.')
    args = parser.parse_args(namespace=argparse.Namespace(**saved))  # what is not given stays as saved
    for name, value in saved.items():
        given = getattr(args, name)
        if given != value and name != 'data':
            flag = '--' + name.replace('_', '-')
            raise UserError(f'--resume goes on {shown(flag, value)}, and not {shown(flag, given)}; leave out {flag}, '
                            'or start anew without --resume')
    return args


def print_result(path, best, following):
    """A training's last line: what it wrote, with the best validation loss, and the `following` command."""
    nothing = f'{path} was finished before: nothing is left to train'
    done = nothing if best is None else f'wrote {path} (validation loss {best:.3f})'
    print(f'{done}; next: {following}')


def next_command(script, arguments, args, source):
    """The next command as text: `script` with `arguments`, and with every other shared flag not at its default.

    `script` is in the folder of the running script. `source` is its default for --data, which the checkpoint names.
    """
    usual = {**vars(parser('').parse_args([])), 'data': source}
    given = [word for name, value in usual.items() if getattr(args, name) != value and f'--{name}' not in arguments
             for word in (f'--{name}', getattr(args, name))]
    return shlex.join(['python', str(Path(sys.argv[0]).with_name(script)), *map(str, [*arguments, *given])])


def run(main):
    """Call main(), which prints in UTF-8, and in the first of several processes alone.

    A UserError or OSError becomes one line on stderr and exit code 2. Ctrl-C exits with 130, a closed pipe with 1.
    """
    if distributed.is_torchelastic_launched() and os.environ['RANK'] != '0':  # the first process prints for all
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by the process that started this one
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # not in a notebook
            # Windows would encode a file or a pipe in its code page.
            stream.reconfigure(encoding='utf-8', errors='backslashreplace', line_buffering=True)
    try:
        main()
    except KeyboardInterrupt as stop:
        print(str(stop) or 'interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes at exit
        sys.exit(1)
    except (UserError, OSError) as error:  # OSError: a path that the system does not like
        print('error: ' + str(error).replace('\n', ' '), file=sys.stderr)
        sys.exit(2)
