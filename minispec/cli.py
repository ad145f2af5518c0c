"""What the four scripts' command lines share: flags with one meaning and one default, and errors of one line."""
import argparse
import contextlib
import math
import os
import shlex
import sys

from minispec import UserError
from minispec.checkpoint import load_state


def number(kind, what, accepts):
    """An argparse type: a number of this kind that `accepts`; of other text the error says that it is not `what`."""
    def convert(text):
        with contextlib.suppress(ValueError):
            if accepts(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f'{text} is not a {what}')
    return convert


positive_int = number(int, 'whole number from 1 to 2147483647', lambda x: 1 <= x < 2 ** 31)
positive_float = number(float, 'number above 0', lambda x: 0 < x < math.inf)
seed = number(int, 'seed in 0 ... 4294967295', lambda x: 0 <= x < 2 ** 32)
percentage = number(float, 'percentage in (0, 100]', lambda x: 0 < x <= 100)
probability = number(float, 'probability in [0, 1)', lambda x: 0 <= x < 1)
length_penalty = number(float, 'length penalty in -10 ... 10', lambda x: -10 <= x <= 10)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message):
        raise UserError(message)


def parser(description):
    """A parser with the flags that every script has."""
    result = Parser(description=description, formatter_class=HelpFormatter)
    result.add_argument('--data', default='phrasebook',
                        help='phrasebook (built in), multi30k (downloaded once), or a folder of parallel text')
    result.add_argument('--run', default='runs/default', help='folder for everything that the four scripts write')
    result.add_argument('--device', default='auto', help='auto, cpu, cuda or mps')
    result.add_argument('--seed', type=seed, default=1, help='of weights, batches, dropout, random masks, bootstrap')
    return result


def add_training_flags(result):
    """The flags of the loop that train.py and specialize.py share."""
    result.add_argument('--steps', type=positive_int, default=2000, help='updates of the weights')
    result.add_argument('--batch-tokens', type=positive_int, default=512, help='padded positions in a batch')
    result.add_argument('--accumulate', type=positive_int, default=1, help='batches in an update')
    result.add_argument('--lr', type=positive_float, default=3e-3, help='highest learning rate')
    result.add_argument('--temperature', type=positive_float, default=1.5,
                        help="of sampling directions: 1 takes the data as it is, 5, the paper's, evens it out")
    result.add_argument('--dtype', choices=['auto', 'float32', 'bfloat16'], default='auto',
                        help='of matrix products; auto takes bfloat16 where it measures as faster')
    result.add_argument('--eval-every', type=positive_int, default=500, help='updates between two validations')
    result.add_argument('--patience', type=positive_int, default=10, help='validations without a new best that end it')
    result.add_argument('--resume', action='store_true', help='go on with the interrupted run, with its settings')


def add_selection_flags(result):
    """The flags of Eq. 1."""
    result.add_argument('--k', type=percentage, default=70.0, help="%% of a layer's activity that kept neurons carry")
    result.add_argument('--count', choices=['token', 'sentence'], default='token',
                        help="what a neuron's activity is: the positions, or the sentences, in which it fires")


def print_settings(args):
    """One line that says all settings in force."""
    print(' '.join(f'{name}={value}' for name, value in vars(args).items()))


def resume(args, parser, path, phase, script):
    """--resume: returns the Checkpoint of the interrupted run that writes `path`, and puts its settings into `args`.

    The parser reads them as if they were typed. Where the run and its data lie and what it runs on is as given now.
    """
    path = path.with_suffix('.last.pt')
    checkpoint = load_state(path, phase, f'{script}, at its first validation or at Ctrl-C,')
    names, settings = vars(args).keys() - {'run', 'device', 'resume'}, checkpoint.info['settings']
    try:
        flags = [f'--{name.replace("_", "-")}={settings[name]}' for name in names if settings[name] is not None]
        saved = parser.parse_args(flags)
    except (UserError, KeyError) as error:
        raise UserError(f'{path} is damaged: its settings: {error}')
    for name in names:
        given, value = getattr(args, name), getattr(saved, name)
        if name == 'data' and given != parser.get_default(name):
            continue
        if given not in (value, parser.get_default(name)):
            parser.error(f'--resume goes on with --{name.replace("_", "-")} {value}; leave {given} out, or start anew')
        setattr(args, name, value)
    return checkpoint


def command(script, *arguments):
    """A command to type, as text."""
    return shlex.join(['python', script, *map(str, arguments)])


def run(main):
    """Call main(); what only the user can put right becomes one line on stderr and exit code 2."""
    if os.environ.get('RANK', '0') != '0':  # torchrun started several of us: the first speaks for all
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    for stream in (sys.stdout, sys.stderr):  # Windows would write its code page to a file or a pipe
        stream.reconfigure(encoding='utf-8', errors='backslashreplace', line_buffering=True)
    try:
        main()
    except KeyboardInterrupt as stop:
        print(str(stop) or 'interrupted; --resume goes on from what a training saved last', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # who reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        sys.exit(1)
    except (UserError, OSError) as error:  # OSError: a path that the system does not like
        print('error: ' + str(error).replace('\n', ' '), file=sys.stderr)
        sys.exit(2)
