"""How lass.py and neuron_dropout.py, which have model classes of their own, continue the training of a base."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from minispec import UserError, cli  # noqa: E402
from minispec.checkpoint import check_text, fingerprint, load_state  # noqa: E402
from minispec.corpora import open_corpus, source  # noqa: E402
from minispec.data import Bitext  # noqa: E402
from minispec.training import go_on  # noqa: E402


def start(parser, base, path, phase):
    """What `train` needs to write `path`: (settings, Checkpoint, [training Bitext, validation Bitext]).

    Training continues from the Checkpoint `base`, or with --resume from the interrupted run of this phase, which must
    have started from the same base.
    """
    args = parser.parse_args()
    if args.resume:
        last = path.with_suffix('.last.pt')
        checkpoint = load_state(last, phase)
        args = cli.resumed_settings(parser, last, checkpoint.info)
        if checkpoint.base != fingerprint(base.model):
            raise UserError(f'{last} was made from another base than the one that is there now; start anew')
    else:
        cli.inherit(args, base.info)
        args.data = source(args.data or base.data['source'])
        checkpoint = go_on(base, phase, args.restart)
    cli.print_settings(args)
    corpus = open_corpus(args.data)
    texts = [Bitext(corpus, split, base.tasks, base.vocabulary, base.model.config.max_len, args.run)
             for split in ('train', 'valid')]
    check_text(base, args.data, *texts)
    return args, checkpoint, texts
