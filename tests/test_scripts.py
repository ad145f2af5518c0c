"""The four scripts as a user runs them, in order, and what they say when they are used wrongly."""
import contextlib
import io
import json
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from kill_campaign import campaign
from sacrebleu.metrics import BLEU

from minispec import decoding, training
from minispec.checkpoint import fingerprint, load_base, load_checkpoint, save_checkpoint
from minispec.data import read_lines
from minispec.export import export
from minispec.masks import MASKS, reverse_masks, shared_masks
from minispec.model import EOS
from minispec.neurons import select
from minispec.training import train_step

ROOT = Path(__file__).resolve().parent.parent
SMALL = '--vocab-size 90 --d-model 16 --d-ff 32 --layers 1 --heads 2 --dtype float32'.split()
SHORT = '--steps 6 --eval-every 3 --batch-tokens 400'.split()
EN_DE = ['--src', 'en', '--tgt', 'de']
FILES = {'own': 'specialized.pt', 'dense': 'dense.pt', 'random': 'random.pt', 'permuted': 'permuted.pt',
         'family': 'family.pt', 'reverse': 'reverse.pt', 'shared': 'shared.pt'}


def call(script, *args, stdin=b''):
    """Run a script in a process of its own; returns (exit code, stdout, stderr)."""
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, args)], input=stdin, capture_output=True,
                          cwd=ROOT)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def call_here(script, *args, stdin=b''):
    """The same in this process, which has torch loaded already."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding='utf-8') for _ in range(2))
    streams = dict(stdin=io.TextIOWrapper(io.BytesIO(stdin)), stdout=out, stderr=err)
    code = 0
    with patch.multiple(sys, argv=[script, *map(str, args)], **streams):
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except SystemExit as ending:
            code = ending.code
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def succeed(script, *args, stdin=b'', run=call_here):
    code, out, err = run(script, *args, stdin=stdin)
    assert code == 0, err
    return out


def fail(script, *args, stdin=b''):
    """The one-line error that a user's mistake gives."""
    code, out, err = call_here(script, *args, stdin=stdin)
    assert code == 2 and err.startswith('error: ') and err.count('\n') == 1, err
    return err


@pytest.fixture(scope='module')
def common(corpus_folder, tmp_path_factory):
    return ['--data', corpus_folder, '--run', tmp_path_factory.mktemp('runs') / 'tiny', '--device', 'cpu']


@pytest.fixture(scope='module')
def pipeline(common):
    """All four scripts in order, the first and the last as processes of their own; their outputs by name."""
    out = {'train': succeed('train.py', *common, *SMALL, *SHORT, run=call),
           'profile': succeed('profile.py', *common, '--plot', '--ablate')}
    for masks in MASKS:
        out[masks] = succeed('specialize.py', *common, *SHORT, '--masks', masks)
    out['test'] = succeed('translate.py', *common, '--beam', 2, run=call)  # --test, --compare dense.pt base.pt
    return out


def test_the_scripts_follow_one_another(pipeline, common):
    """First line: the settings; last line: what was written, and a next command that exists."""
    run = common[3]
    for name, written in {'train': 'base.pt', 'profile': 'activations.pt', **FILES}.items():
        lines = pipeline[name].splitlines()
        assert lines[0].startswith('data=') and 'seed=1' in lines[0]
        assert lines[-1].startswith(f'wrote {run / written}') and (run / written).exists()
        command = shlex.split(lines[-1].split('next: python ')[1])
        assert (ROOT / command[0]).exists() and str(run) in command


def test_each_training_leaves_its_curve_and_plot_draws_it(pipeline, common):
    for name in ('base', *(Path(file).stem for file in FILES.values())):
        lines = (common[3] / f'{name}.csv').read_text(encoding='utf-8').splitlines()
        assert [line.split(',')[0] for line in lines] == ['step', '3', '6']
    before = set(common[3].iterdir())
    out = succeed('train.py', *common, '--resume', '--plot')
    drawn = set(common[3].iterdir()) - before
    assert {path.name for path in drawn} == {'base.curve.png', 'base.curve.svg'}
    assert all(path.read_bytes()[:4] in (b'\x89PNG', b'<?xm') and str(path) in out for path in drawn)


def test_profile_shows_sparsity_and_overlap(pipeline, common):
    out = pipeline['profile']
    assert '\nenc1 ' in out and '\ndec1 ' in out and 'parsity' in out and 'expected by chance' in out
    table = [line for line in out.split('--ablate')[0].splitlines() if line.startswith(('en-de ', 'en-fr '))]
    assert len(table) == 4 and '100 100' in table[0]  # line-aligned: en-de and en-fr share their encoder's neurons
    assert '3 random draws, 17 validations' in out and 'mean on the diagonal' in out
    assert 'a single neuron in a layer; take a larger --k' in fail('profile.py', *common, '--k', 1, '--ablate')


def test_profile_draws(pipeline, common):
    """Each figure as PNG and as SVG; `drew` names them all."""
    for name in ('overlap-by-layer', 'sparsity', 'overlap-enc1', 'overlap-dec1', 'ablation'):
        for suffix, start in (('png', b'\x89PNG'), ('svg', b'<?xml')):
            path = common[3] / f'{name}.{suffix}'
            assert path.read_bytes().startswith(start) and str(path) in pipeline['profile']


def test_plot_without_matplotlib_is_one_line(pipeline, common):
    with patch.dict(sys.modules, {'matplotlib': None, 'matplotlib.figure': None}):
        for script in ('train.py', 'profile.py', 'specialize.py'):
            assert 'pictures need matplotlib' in fail(script, *common, '--plot')


def test_each_masks_gets_the_neurons_that_it_says(pipeline, common):
    """The masks in the written files, from the activations that profile.py wrote."""
    masks = {name: load_checkpoint(common[3] / file).model.masks for name, file in FILES.items()}
    tasks = load_base(common[3] / 'base.pt').tasks
    counts = torch.load(common[3] / 'activations.pt', weights_only=True)['token']
    own = select(counts, 70)
    assert masks['dense'].all() and torch.equal(masks['own'], own)
    assert torch.equal(masks['random'].sum(-1), own.sum(-1)) and not torch.equal(masks['random'], own)
    assert torch.equal(masks['reverse'], reverse_masks(own, tasks)) and not torch.equal(masks['reverse'], own)
    assert torch.equal(masks['shared'], shared_masks(counts, own)) and (masks['shared'] == masks['shared'][:1]).all()


def test_controls_differ_in_their_masks_alone(pipeline, common, monkeypatch):
    """They start from the same weights and see the same batches, on the same schedule."""
    started = {}

    def spy(checkpoint, train_data, valid_data, path, args):
        weights, batches = checkpoint.model.state_dict(), train_data.train_batches(400, args.temperature, args.seed)
        masks = weights.pop('masks')
        settings = {name: value for name, value in vars(args).items() if name != 'masks'}
        batches = [next(batches).tolist() for _ in range(5)]
        started[args.masks] = masks, {name: x.tolist() for name, x in weights.items()}, batches, settings
        return 0.0
    monkeypatch.setattr(training, 'train', spy)
    for name in MASKS:
        succeed('specialize.py', *common, *SHORT, '--masks', name)
    base = load_base(common[3] / 'base.pt').model.state_dict()
    assert all(started['own'][1][name] == base[name].tolist() for name in base if name != 'masks')
    assert all(started[name][1:] == started['own'][1:] for name in MASKS)
    assert len({tuple(masks.flatten().tolist()) for masks, *_ in started.values()}) == 7


def test_specialize_goes_on_as_the_base_was_trained_unless_told_otherwise(pipeline, common, tmp_path):
    run = shutil.copytree(common[3], tmp_path / 'run')
    for flags, expected, before in (([], 'batch_tokens=400 accumulate=1 lr=0.003', 6),
                                    (['--restart', '--lr', 0.01], 'batch_tokens=400 accumulate=1 lr=0.01', 0)):
        out = succeed('specialize.py', '--run', run, '--steps', 2, '--masks', 'dense', *flags)
        assert expected in out.splitlines()[0]
        assert load_checkpoint(run / 'dense.last.pt').training['progress']['before'] == before


@pytest.mark.parametrize('masks', ['adapters', 'family-adapters', 'unfrozen-adapters'])
def test_adapters_are_trained_resumed_scored_and_extracted(pipeline, common, tmp_path, masks):
    run = shutil.copytree(common[3], tmp_path / 'run')
    run_flags = ['--run', run, '--masks', masks, '--bottleneck', 4]
    whole = succeed('specialize.py', *run_flags, '--steps', 4, '--eval-every', 2)
    assert f'wrote {run / masks}.pt' in whole.splitlines()[-1] and 'sparsity' not in whole
    base, adapted = (load_checkpoint(run / f'{name}.pt') for name in ('base', masks))
    moved = not torch.equal(adapted.model.embedding.weight, base.model.embedding.weight)
    assert moved == (masks == 'unfrozen-adapters')
    assert adapted.model.config.d_ff == 32 + (2 * 4 if masks == 'family-adapters' else 4 * 4)  # Germanic and Romance
    before, number = fingerprint(adapted.model), iter(range(9))

    def killed(*args):
        return train_step(*args) if next(number) < 3 else 1 / 0
    with patch.object(training, 'train_step', killed), pytest.raises(ZeroDivisionError):
        call_here('specialize.py', *run_flags, '--steps', 4, '--eval-every', 2)
    succeed('specialize.py', *run_flags, '--resume')
    assert fingerprint(load_checkpoint(run / f'{masks}.pt').model) == before  # the frozen stay frozen
    out = succeed('translate.py', '--run', run, '--beam', 1, '--model', f'{masks}.pt')
    assert any(line.startswith('dense.pt ') for line in out.splitlines())
    succeed('translate.py', '--run', run, '--model', f'{masks}.pt', *EN_DE, '--extract')
    shutil.copy(run / f'{masks}.pt', run / 'base.pt')
    assert 'is no base' in fail('profile.py', '--run', run)


def test_encoder_and_decoder_can_have_a_k_each(pipeline, common, monkeypatch):
    found = []
    monkeypatch.setattr(training, 'train', lambda checkpoint, *args: found.append(checkpoint.model.masks) or 0.0)
    succeed('specialize.py', *common, *SHORT, '--k-encoder', 100, '--k-decoder', 50, '--count', 'sentence')
    masks, counts = found[0], torch.load(common[3] / 'activations.pt', weights_only=True)['sentence']
    assert masks[:, 0].all() and torch.equal(masks[:, 1], select(counts[:, 1], 50))


def test_scores_and_translations_are_written(pipeline, common):
    folder = common[3] / 'test.specialized'
    scores = json.loads((folder / 'scores.json').read_text(encoding='utf-8'))
    assert sorted(scores['scores']) == ['de-en', 'en-de', 'en-fr', 'fr-en']
    assert len((folder / 'de-en.txt').read_text(encoding='utf-8').split('\n')) == 20 + 1
    for signature in ('BLEU|nrefs:1|case:mixed|eff:no|tok:13a', 'chrF++|nrefs:1', 'nw:2'):
        assert signature in pipeline['test']
    assert scores['compare'] == list(scores['others']) == ['dense.pt', 'base.pt']
    lines = [line for line in pipeline['test'].splitlines() if line.startswith('de-en')]
    assert f'{scores["scores"]["de-en"]["BLEU"]:.2f}' in lines[0]
    assert list(scores['means']) == ['all', 'from en', 'into en']
    rows = [line.split() for line in pipeline['test'].splitlines() if line.startswith(('dense', 'base', 'specialized'))]
    assert [row[0] for row in rows] == ['dense.pt', 'base.pt', 'specialized.pt']
    assert [float(row[1]) for row in rows] == pytest.approx(
        [system['means']['all']['BLEU'] for system in (*scores['others'].values(), scores)], abs=0.0051)


@pytest.mark.parametrize('split', ['test', 'valid'])
def test_a_split_is_scored_against_its_own_references(pipeline, common, corpus_folder, tmp_path, monkeypatch, split):
    """A model that writes the test references scores 100 on the test split, and less on another of that length."""
    data = tmp_path / 'data'
    shutil.copytree(corpus_folder, data)
    for path in data.glob('valid.*'):  # as many lines as the test split has, so that only scores show a mix-up
        path.write_text('\n'.join(list(read_lines(path))[:20]) + '\n', encoding='utf-8', newline='\n')

    def perfect(checkpoint, lines, task, *args):
        src, tgt = task.split('-')
        assert lines == list(read_lines(data / f'{split}.{src}'))
        return list(read_lines(data / f'test.{tgt}')), {}
    monkeypatch.setattr(decoding, 'translate', perfect)
    succeed('translate.py', '--data', data, *common[2:], '--test', split, '--model', 'random.pt')
    scores = json.loads((common[3] / f'{split}.random' / 'scores.json').read_text(encoding='utf-8'))['scores']
    for task, row in scores.items():
        tgt = task.split('-')[1]
        hypotheses, references = list(read_lines(data / f'test.{tgt}')), list(read_lines(data / f'{split}.{tgt}'))
        assert row['BLEU'] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
        assert (row['BLEU'] > 99.9) == (split == 'test')


def test_one_direction_is_scored_alone(pipeline, common):
    out = succeed('translate.py', *common, '--test', '--src', 'de', '--tgt', 'en', '--compare', 'dense.pt', '--beam', 2)
    folder = common[3] / 'test.specialized.de-en'
    found = json.loads((folder / 'scores.json').read_text(encoding='utf-8'))
    whole = json.loads((common[3] / 'test.specialized' / 'scores.json').read_text(encoding='utf-8'))
    assert found['scores'].keys() == {'de-en'} and not found['means'] and 'en-de' not in out
    assert found['scores']['de-en']['BLEU'] == whole['scores']['de-en']['BLEU']


def test_a_model_does_not_differ_from_itself(pipeline, common):
    out = succeed('translate.py', *common, '--test', '--model', 'dense.pt', '--compare', 'dense.pt', '--beam', 1)
    rows = [line.split() for line in out.splitlines() if line.startswith(('en-', 'de-', 'fr-'))]
    assert len(rows) == 4 and all(row[-4:] == ['+0.00', '+0.00', '+0.00', '1.000'] for row in rows)
    last = [line.split() for line in out.splitlines() if line.startswith('dense.pt')]
    assert last[0][-3:] == ['0', '4', '0'] and last[0][:4] == last[1]  # wins, ties, losses


def test_text_in_is_text_out_line_for_line(pipeline, common, tmp_path):
    text = 'the dog runs\n\na red cat \u2028 eats\r\n   \nbig man\nno final newline'
    out = succeed('translate.py', *common, *EN_DE, stdin=text.encode())
    lines = out.split('\n')
    assert len(lines) == 6 + 1 and lines[1] == lines[3] == lines[6] == ''
    (tmp_path / 'text').write_bytes(text.encode())
    assert succeed('translate.py', *common, *EN_DE, '--input', tmp_path / 'text') == out
    assert succeed('translate.py', *common, *EN_DE, stdin=b'') == ''


def test_a_sub_network_translates_its_direction_and_no_other(pipeline, common):
    text = b'the dog runs\na red cat eats\n'
    out = succeed('translate.py', *common, *EN_DE, '--extract')
    assert out.startswith(f'wrote {common[3] / "specialized.en-de.pt"} with ')
    whole, part = (load_checkpoint(common[3] / name) for name in ('specialized.pt', 'specialized.en-de.pt'))
    kept = whole.model.masks[whole.tasks.index('en-de')].sum(-1)
    assert [ffn.w1.out_features for ffn in part.model.ffns] == kept.tolist() and part.tasks == ['en-de']
    translation = succeed('translate.py', *common, *EN_DE, stdin=text)
    assert succeed('translate.py', *common, *EN_DE, '--model', 'specialized.en-de.pt', stdin=text) == translation
    following = shlex.split(out.split('next: python ')[1])  # works as it stands
    assert succeed(*following, stdin=text) == translation
    assert 'knows en-de' in fail('translate.py', *common, '--src', 'de', '--tgt', 'en', '--model',
                                 'specialized.en-de.pt')


@torch.no_grad()
def test_an_exported_sub_network_is_the_models_function(pipeline, common, corpus_folder, tmp_path):
    """CTranslate2 gives each subword of the references the probability that the whole model gives it."""
    ctranslate2 = pytest.importorskip('ctranslate2')
    checkpoint = load_checkpoint(common[3] / 'specialized.pt')
    model, vocabulary, index = checkpoint.model.eval(), checkpoint.vocabulary, checkpoint.tasks.index('en-de')
    part = replace(checkpoint, model=model.sub_network(index), tasks=['en-de'])
    export(part, 'en-de', tmp_path / 'float32', quantization=None)
    translator = ctranslate2.Translator(str(tmp_path / 'float32'))
    lines = [list(read_lines(corpus_folder / f'test.{language}')) for language in ('en', 'de')]
    for src, tgt in zip(*map(vocabulary.encode, lines)):
        rows = torch.tensor([[vocabulary.tag('en'), *src, EOS]]), torch.tensor([[vocabulary.tag('de'), *tgt, EOS]])
        log_probs = model.project(model(*rows, torch.tensor([index]))).log_softmax(-1)  # (n, V)
        expected = log_probs.gather(1, rows[1][0, 1:, None]).flatten()  # (n,)
        source, target = [[vocabulary.model.id_to_piece(i) for i in row] for row in (rows[0][0].tolist(), tgt)]
        found = translator.score_batch([source], [target])[0].log_probs
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


def test_an_exported_sub_network_is_small_and_translates_as_it_is_printed(pipeline, common, tmp_path):
    pytest.importorskip('ctranslate2')
    before = (common[3] / 'specialized.pt').read_bytes()
    out = succeed('translate.py', *common, *EN_DE, '--export', tmp_path / 'small')
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(out.split('\n\n', 1)[1].replace('A sentence.', 'the dog runs'), {})
    assert len(printed.getvalue()) > 1 and (common[3] / 'specialized.pt').read_bytes() == before
    checkpoint = load_checkpoint(common[3] / 'specialized.pt')
    export(checkpoint, 'en-de', tmp_path / 'large', quantization=None)  # all neurons, in 32 bits
    assert (tmp_path / 'small' / 'model.bin').stat().st_size < (tmp_path / 'large' / 'model.bin').stat().st_size


def test_export_without_ctranslate2_is_one_line(pipeline, common, tmp_path):
    with patch.dict(sys.modules, {'ctranslate2': None, 'ctranslate2.specs': None}):
        assert 'python -m pip install ctranslate2' in fail('translate.py', *common, *EN_DE, '--export', tmp_path / 'no')
    assert not (tmp_path / 'no').exists()


def test_a_direction_never_trained_is_translated_scored_and_compared(pipeline, common):
    flags = [*common, '--src', 'de', '--tgt', 'fr', '--beam', 1]
    code, out, err = call_here('translate.py', *flags, stdin=b'der Hund\nein Mann\n')
    assert code == 0 and out.count('\n') == 2
    assert err.count('zero-shot, with the encoder neurons of de-en and the decoder neurons of en-fr\n') == 1
    code, out, err = call_here('translate.py', *flags, '--test', '--compare', 'dense.pt')
    assert code == 0 and '\nde-fr ' in out
    assert 'specialized.pt was not' in err and 'dense.pt was not trained on de-fr: zero-shot\n' in err
    assert len(list(read_lines(common[3] / 'test.specialized.de-fr' / 'de-fr.txt'))) == 20


def test_a_line_that_is_too_long_is_cut_with_a_warning(pipeline, common):
    code, out, err = call_here('translate.py', *common, *EN_DE, '--beam', 1, stdin=b'a\n' + b'dog ' * 400 + b'\na\n')
    assert code == 0 and out.count('\n') == 3
    assert 'warning: en-de, line 2: longer than the model can read, and cut\n' in err


def test_a_rank_in_the_environment_changes_nothing_without_torchrun(pipeline, common, tmp_path, monkeypatch):
    """A cluster's scheduler may set it."""
    text = b'the dog runs\na red cat eats\n'
    expected = succeed('translate.py', *common, *EN_DE, stdin=text)
    for name, value in (('RANK', '1'), ('LOCAL_RANK', '1'), ('WORLD_SIZE', '2')):
        monkeypatch.setenv(name, value)
    assert succeed('translate.py', *common, *EN_DE, stdin=text) == expected
    out = succeed('train.py', *common[:2], '--run', tmp_path, '--device', 'cpu', *SMALL, '--steps', 1)
    assert out.count('\n') > 4 and (tmp_path / 'base.pt').exists()


@pytest.mark.slow
def test_what_is_killed_goes_on_to_the_same_end(tmp_path):
    """`tests/kill_campaign.py` does this as often as you like."""
    assert sum(campaign(3, 32, tmp_path).values()) == 3


def test_ctrl_c_says_how_to_go_on(corpus_folder, tmp_path, monkeypatch):
    """The command that is printed works as it stands, spaces in a path included."""
    def interrupted_step(*args):
        signal.raise_signal(signal.SIGINT)
        return train_step(*args)
    flags = ['--data', corpus_folder, '--run', tmp_path / 'my run', '--device', 'cpu', *SMALL, *SHORT]
    with monkeypatch.context() as patched:
        patched.setattr(training, 'train_step', interrupted_step)
        code, out, err = call_here('train.py', *flags)
    assert code == 130 and err.startswith('interrupted, and saved after step 1; to go on: python ')
    words = shlex.split(err.split('to go on: ')[1])
    assert words[2:] == [*map(str, flags), '--resume']
    code, out, err = call_here(*words[1:])
    assert (code, err) == (0, '') and 'wrote' in out.splitlines()[-1]
    following = shlex.split(out.splitlines()[-1].split('next: ')[1])
    assert following == ['python', str(ROOT / 'profile.py'), '--run', str(tmp_path / 'my run'), '--device', 'cpu']


def test_settings_that_the_code_has_outgrown_are_named(pipeline, common, tmp_path):
    state = load_checkpoint(common[3] / 'base.last.pt')
    del state.info['settings']['lr']
    state.info['settings']['gone'] = 1
    save_checkpoint(tmp_path / 'base.last.pt', state)
    message = fail('train.py', *common[:2], '--run', tmp_path, '--resume')
    assert 'the file lacks settings.lr' in message and 'the code does not know settings.gone' in message


def test_a_specialized_model_is_no_base(pipeline, common, tmp_path):
    for name in ('specialized.pt', 'activations.pt'):
        shutil.copy(common[3] / name, tmp_path / name.replace('specialized', 'base'))
    for script in ('profile.py', 'specialize.py'):
        assert 'base.pt is no base' in fail(script, *common[:2], '--run', tmp_path)


def test_a_finished_run_stays_as_it_is(pipeline, common):
    before = {name: (common[3] / name).read_bytes() for name in ('base.pt', 'base.last.pt', 'base.csv')}
    out = succeed('train.py', *common, '--resume').splitlines()
    assert 'steps=6' in out[0] and 'nothing is left to train; next: python' in out[-1] and 'wrote' not in out[-1]
    assert {name: (common[3] / name).read_bytes() for name in before} == before
    for steps in (9, 2000):  # 2000 is the default; it was given all the same
        message = fail('train.py', *common, '--resume', '--steps', steps)
        assert f'goes on with --steps 6, and not with --steps {steps}; leave out --steps' in message
    message = fail('specialize.py', *common, '--resume', '--restart')
    assert 'goes on without --restart, and not with --restart True; leave out --restart' in message
    succeed('specialize.py', *common, '--resume', '--masks', 'dense')


# What is not said is taken from the checkpoint ------------------------------------------------------------------------

def test_a_forgotten_data_is_that_of_the_checkpoint(pipeline, common, corpus_folder):
    """And not the phrasebook, though that is the default of train.py."""
    run, resolved = common[2:], f'data={corpus_folder.resolve()} '
    assert resolved in succeed('profile.py', *run)
    assert resolved in succeed('specialize.py', *run, *SHORT, '--masks', 'shared')
    assert resolved in succeed('translate.py', *run, '--beam', 1, '--model', 'dense.pt', '--compare')


def test_other_data_than_that_of_the_checkpoint_is_refused(pipeline, common, corpus_folder, tmp_path):
    """By its text: a copy in another folder is the same data, and the next command names that folder."""
    moved = shutil.copytree(corpus_folder, tmp_path / 'moved')
    for name, script, flags in (('valid.fr', 'profile.py', []), ('train.de', 'specialize.py', SHORT),
                                ('valid.de', 'specialize.py', SHORT), ('valid.de', 'train.py', ['--resume'])):
        command = [script, '--data', moved, *common[2:], *flags]
        text = (moved / name).read_bytes()
        assert f'--data {moved}' in succeed(*command).splitlines()[-1]
        (moved / name).write_bytes(text.replace(b' ', b'  ', 1))
        message = fail(*command)
        assert f'is another text: its {name.split(".")[0]} text is not the text that the model was trained' in message
        (moved / name).write_bytes(text)


def test_precision_is_that_of_the_base(common, corpus_folder, tmp_path):
    run = ['--run', tmp_path, '--device', 'cpu']
    flags = [*SMALL[:-1], 'bfloat16', *SHORT]
    assert 'on cpu in bfloat16' in succeed('train.py', '--data', corpus_folder, *run, *flags)
    assert 'on cpu in bfloat16' in succeed('specialize.py', *run, *SHORT, '--masks', 'dense')
    assert load_checkpoint(tmp_path / 'dense.pt').dtype == 'bfloat16'


def test_another_selection_has_files_of_another_name(pipeline, common):
    """No k overwrites another. The name of a missing file says which flags make it."""
    before = {name: (common[3] / name).read_bytes() for name in ('specialized.pt', 'sparsity.svg')}
    flags = ['--k', 95, '--count', 'sentence']
    assert (out := succeed('profile.py', *common, *flags, '--plot')) and 'sparsity.k95.sentence.svg' in out
    assert 'k = 95, by sentence; base ' in out
    assert '(k = 95, by sentence; base ' in (common[3] / 'sparsity.k95.sentence.svg').read_text(encoding='utf-8')
    out = succeed('specialize.py', *common, *SHORT, *flags)
    assert f'wrote {common[3] / "specialized.k95.sentence.pt"} ' in out
    assert {name: (common[3] / name).read_bytes() for name in before} == before
    assert 'specialize.py --masks random --k-encoder 95 --k-decoder 62.5 makes it' in fail(
        'translate.py', *common, '--model', 'random.k95-62.5.pt')


def test_what_was_made_from_another_base_is_said(pipeline, common, corpus_folder, tmp_path):
    """After a second train.py in a run folder, specialized.pt is still that of the first."""
    run = shutil.copytree(common[3], tmp_path / 'run')
    flags = ['--run', run, '--device', 'cpu']
    text = [*flags, *EN_DE, '--beam', 1]
    assert 'another base' not in call_here('translate.py', *text, stdin=b'a dog\n')[2]
    succeed('train.py', '--data', corpus_folder, *flags, *SMALL, *SHORT, '--seed', 2)
    said = f'warning: {run / "specialized.pt"} was made from another base than {run / "base.pt"}\n'
    code, _, err = call_here('translate.py', *text, stdin=b'a dog\n')
    assert code == 0 and err.count(said) == 1
    _, _, err = call_here('translate.py', *flags, '--beam', 1)
    assert 'note: base.pt is left out of the comparison, because it was made from another base\n' in err
    code, _, err = call_here('translate.py', *flags, '--beam', 1, '--compare', 'base.pt')
    assert said in err and f'{run / "specialized.pt"} and base.pt were not made from the same base\n' in err
    assert 'recorded in another base' in fail('specialize.py', *flags, *SHORT)


def test_the_printed_commands_lead_to_a_comparison_of_like_things(pipeline, common, corpus_folder, tmp_path):
    """They train dense with the flags that were given for own, and compare the two."""
    run, flags = tmp_path / 'my run', ['--steps', 4, '--eval-every', 2]
    out = succeed('train.py', '--data', corpus_folder, '--run', run, '--device', 'cpu', '--seed', 3, *SMALL, *SHORT)
    scripts = []
    while 'next: python' in out:
        _, script, *words = shlex.split(out.splitlines()[-1].split('next: ')[1])
        scripts.append(' '.join([Path(script).name, *words]))
        if scripts[-1].startswith('specialize.py') and '--masks' not in words:
            words += ['--k', '95', *map(str, flags)]
        assert '--seed' in words and '--device' in words
        if '--model' in words:
            break
        if 'dense' in words:  # a part of the model, written later, is not what is to be compared
            part = ['--model', 'specialized.k95.pt', '--src', 'de', '--tgt', 'fr', '--extract']
            succeed('translate.py', '--run', run, *part)
        out = succeed(script, *words)
    assert scripts[2].startswith('specialize.py --masks dense --steps 4 --eval-every 2 ')
    assert scripts[3].startswith('translate.py --model specialized.k95.pt ')
    code, out, err = call_here('translate.py', *words)
    assert code == 0 and 'note: ' not in err and '\ndense.pt ' in out.split('ΔBLEU')[-2]
    settings = [load_checkpoint(run / name).info['settings'] for name in ('dense.pt', 'specialized.k95.pt')]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {
        'masks', 'k'}


def test_a_comparison_of_unlike_things_is_said(pipeline, common, tmp_path):
    """Other steps; a direction that one of them lacks."""
    run = shutil.copytree(common[3], tmp_path / 'run')
    flags = ['--run', run, '--device', 'cpu']
    test = ['translate.py', *flags, '--beam', 1]
    succeed('specialize.py', *flags, *SHORT, '--masks', 'dense', '--steps', 3)
    assert f'note: {run / "specialized.pt"} was trained with steps 6, and dense.pt with 3\n' in call_here(*test)[2]
    succeed('translate.py', *flags, *EN_DE, '--extract', '--model', 'base.pt')
    succeed('translate.py', *flags, *EN_DE, '--extract')
    code, out, err = call_here(*test, '--model', 'specialized.en-de.pt')  # one direction, compared in it alone
    assert code == 0 and 'same base' not in err and '\nfr-en' not in out
    (run / 'base.en-de.pt').replace(run / 'base.pt')
    code, out, err = call_here(*test)
    said = 'note: base.pt is left out of the comparison, because it does not translate en-fr, de-en, fr-en'
    assert code == 0 and said in err
    code, out, err = call_here(*test, '--compare', 'base.pt')
    assert code == 2 and err.endswith('error: --compare base.pt does not translate en-fr, de-en, fr-en\n')


def test_scores_of_another_model_are_replaced_with_a_note(pipeline, common, tmp_path):
    test = ['translate.py', '--run', tmp_path, '--device', 'cpu', '--beam', 1, '--model']
    shutil.copy(common[3] / 'dense.pt', tmp_path / 'random.pt')
    assert 'held scores' not in call_here(*test, common[3] / 'random.pt')[2]
    code, _, err = call_here(*test, tmp_path / 'random.pt', *EN_DE, '--test')
    assert code == 0 and 'held scores' not in err  # in a folder of its own
    (tmp_path / 'test.random' / 'xx-yy.txt').write_bytes(b'stale')
    code, _, err = call_here(*test, tmp_path / 'random.pt')
    assert f'{tmp_path / "test.random"} held scores of {common[3] / "random.pt"}, base ' in err
    assert sorted(path.name for path in (tmp_path / 'test.random').iterdir()) == [
        'de-en.txt', 'en-de.txt', 'en-fr.txt', 'fr-en.txt', 'scores.json']


def test_data_that_has_changed_since_the_training_is_said(corpus_folder, tmp_path):
    data, run = shutil.copytree(corpus_folder, tmp_path / 'data'), ['--run', tmp_path / 'run', '--device', 'cpu']
    succeed('train.py', '--data', data, *run, *SMALL, *SHORT)
    test = ['translate.py', *run, '--model', 'base.pt', '--beam', 1]
    assert 'has changed' not in call_here(*test)[2]
    (data / 'valid.de').write_bytes((data / 'valid.de').read_bytes().replace(b' ', b'  ', 1))
    warned, noted = f'warning: {data} has changed since the training\n', 'held scores on another test text'
    err = call_here(*test)[2]
    assert warned in err and noted not in err
    for language, line in ('de', b'a ' * 400), ('en', b'a'), ('fr', b'a'):
        with (data / f'test.{language}').open('ab') as file:
            file.write(line + b'\n')
    err = call_here(*test)[2]
    assert noted in err and 'warning: base.pt: lines longer than the model can read, and cut: de-en 1\n' in err
    assert f'{data} has changed: its valid text is not' in fail('profile.py', *run)
    for path in [*data.glob('train.*'), *data.glob('valid.*')]:
        path.unlink()
    assert 'has changed' not in call_here(*test)[2]  # there is nothing left to compare, and test text is enough


# At a terminal --------------------------------------------------------------------------------------------------------

class Terminal(io.BytesIO):
    """Lines that are typed; `seen` has the number of lines that had been printed when each was asked for."""

    def __init__(self, lines, out):
        super().__init__(b''.join(lines))
        self.out, self.seen = out, []

    def __next__(self):
        self.seen.append(self.out.getvalue().count(b'\n'))
        return super().__next__()


def test_what_is_typed_is_translated_line_by_line(pipeline, common, monkeypatch):
    text = [b'the dog runs\n', b'a red cat\n', b'\n', b'hello\n']
    expected = succeed('translate.py', *common, *EN_DE, stdin=b''.join(text))
    out = io.BytesIO()
    terminal = Terminal(text, out)
    stdin = io.TextIOWrapper(terminal)
    stdin.isatty = lambda: True
    stdout, stderr = (io.TextIOWrapper(stream, encoding='utf-8') for stream in (out, io.BytesIO()))
    monkeypatch.setattr(sys, 'argv', ['translate.py', *map(str, [*common, *EN_DE])])
    for name, stream in (('stdin', stdin), ('stdout', stdout), ('stderr', stderr)):
        monkeypatch.setattr(sys, name, stream)
    runpy.run_path(str(ROOT / 'translate.py'), run_name='__main__')
    assert out.getvalue().decode() == expected and terminal.seen == [0, 1, 2, 3, 4]
    said = stderr.buffer.getvalue()
    assert said.startswith(b'en to de: type a sentence and press Enter;') and b'warning: line 4: 1 of 1 words' in said


def test_words_that_a_small_corpus_never_had_are_said_once(pipeline, common):
    text = b'The big dog\nHello, how are you, dog?\na new day\n'
    code, _, err = call_here('translate.py', *common, *EN_DE, stdin=text)
    said = [line for line in err.splitlines() if 'training text (' in line]
    assert said == ['warning: line 2: 4 of 5 words are not in the training text (hello, how, are, you), so the '
                    'translation is a guess; the next lines are not checked']
    checkpoint = load_checkpoint(common[3] / 'specialized.pt')
    assert checkpoint.data['words']['en'] == sorted(set(checkpoint.data['words']['en'])) and 'dog' in checkpoint.data[
        'words']['en']


def test_a_closed_or_foreign_standard_output_is_no_error(pipeline, common, monkeypatch):
    """As in a notebook, or after >&- in a shell."""
    out = io.StringIO()
    monkeypatch.setattr(sys, 'argv', ['profile.py', *map(str, common)])
    for stream in (out, None):
        monkeypatch.setattr(sys, 'stdout', stream)
        monkeypatch.setattr(sys, 'stderr', None)
        runpy.run_path(str(ROOT / 'profile.py'), run_name='__main__')
    assert 'wrote ' in out.getvalue()
    for stream in (None, io.StringIO('the dog\n')):
        monkeypatch.setattr(sys, 'stdin', stream)
        monkeypatch.setattr(sys, 'stderr', err := io.StringIO())
        monkeypatch.setattr(sys, 'argv', ['translate.py', *map(str, [*common, *EN_DE])])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / 'translate.py'), run_name='__main__')
        assert err.getvalue() == 'error: there is no standard input; name a file with --input\n'


def test_profile_does_not_hide_the_standard_librarys():
    """`cProfile` and with it torch's optimizers import `profile`, and find ours first when run from this folder."""
    program = ('import profile, cProfile, torch; assert profile.__file__.startswith(%r); profile.Profile; profile.run; '
               'cProfile.run("1 + 1"); torch.optim.Adam([torch.zeros(1, requires_grad=True)])' % str(ROOT))
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize('arguments', [['-m', 'cProfile', 'train.py', '-h'], ['-m', 'pytest', '--version']])
def test_tools_that_import_the_standard_librarys_profile_work_in_our_folder(arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()


def test_help_shows_defaults_and_the_same_flag_is_the_same_everywhere():
    """One name, one default, one order, in all four scripts."""
    texts, orders = {}, []
    for script in ('train.py', 'profile.py', 'specialize.py', 'translate.py'):
        out = succeed(script, '-h')
        for shown in ('phrasebook in train.py)', '(default: runs/default)', '(default: auto)', '(default: 1; in spec'):
            assert shown in ' '.join(out.split())
        flags = [option.split(None, 1) for option in out.split('\n  --')[1:]]
        orders.append([name for name, _ in flags if name != 'plot'])
        for name, text in flags:
            texts.setdefault(name, set()).add(' '.join(text.split('\n\n')[0].split()))
    texts.pop('plot')  # draws what the script shows
    assert len(texts) > 30 and all(len(found) == 1 for found in texts.values()), texts
    for one in orders:
        for other in orders:
            assert [name for name in one if name in other] == [name for name in other if name in one]


# What bad input gets --------------------------------------------------------------------------------------------------

def test_missing_files_name_the_script_that_makes_them(pipeline, common, corpus_folder, tmp_path):
    empty = ['--data', corpus_folder, '--run', tmp_path / 'new']
    test = ['translate.py', *empty, '--test', '--model']
    assert 'base.pt is not there; train.py makes it' in fail('profile.py', *empty)
    assert 'base.pt is not there; train.py makes it' in fail('specialize.py', *empty)
    assert 'specialized.pt is not there; specialize.py' in fail('translate.py', *empty, '--test')
    assert 'base.last.pt is not there; train.py, at its first validation or at Ctrl-C, makes it' in fail(
        'train.py', *empty, '--resume')
    assert 'reverse.last.pt is not there; specialize.py --masks reverse, at its first' in fail(
        'specialize.py', *empty, '--masks', 'reverse', '--resume')
    assert 'dense.pt is not there; specialize.py --masks dense makes it' in fail(*test, 'dense.pt')
    assert ('specialized.en-de.pt is not there; translate.py --model specialized.pt --extract --src en --tgt de makes '
            'it') in fail(*test, 'specialized.en-de.pt')
    assert not (tmp_path / 'new').exists()
    shutil.copy(common[3] / 'base.pt', tmp_path / 'base.pt')
    assert 'activations.pt is not there; profile.py makes it' in fail(
        'specialize.py', '--data', corpus_folder, '--run', tmp_path)


def test_activations_of_another_base_are_refused(pipeline, common, tmp_path):
    base = load_base(common[3] / 'base.pt')
    base.model.embedding.weight.data[3, 3] += 1
    save_checkpoint(tmp_path / 'base.pt', base)
    shutil.copy(common[3] / 'activations.pt', tmp_path / 'activations.pt')
    assert 'recorded in another base' in fail('specialize.py', *common[:2], '--run', tmp_path)
    assert not (tmp_path / 'specialized.pt').exists()


def test_wrong_flags_are_one_line(pipeline, common, tmp_path):
    assert 'no such folder' in fail('train.py', '--data', tmp_path / 'none', '--run', tmp_path)
    assert 'trained into xx; the model knows en-de, en-fr, de-en, fr-en' in fail(
        'translate.py', *common, '--src', 'de', '--tgt', 'xx', stdin=b'a\n')
    assert '0.95 is not a percentage from 1 to 100' in fail('profile.py', *common, '--k', 0.95)
    assert '100.5 is not a percentage' in fail('specialize.py', *common, '--k', 100.5)
    assert 'the layers are enc1, dec1' in fail('profile.py', *common, '--layer', 'enc7')
    assert "invalid choice: 'swapped'" in fail('specialize.py', *common, '--masks', 'swapped')
    for device in ('tpu', 'meta', 'cuda:99', ''):
        assert f'--device {device}: this machine has no such device' in fail(
            'profile.py', *common[:4], '--device', device)
    for split in ('../test', 'a/b', '..', ''):
        assert 'is not the name of a split' in fail('translate.py', *common, '--test', split)
    assert 'File name too long' in fail('train.py', '--data', 'x' * 300, '--run', tmp_path)
    assert 'File name too long' in fail('profile.py', *common[:2], '--run', 'x' * 300)
    assert 'File name too long' in fail('translate.py', *common, '--model', 'x' * 300, '--test')
    assert 'the largest is' in fail('train.py', *common[:2], '--run', tmp_path / 'big', '--vocab-size', 50000)
    assert '--heads 3' in fail('train.py', *common, '--heads', 3)
    assert 'pt-BR: a region or script follows an underscore' in fail('translate.py', *common, '--src', 'pt-BR')
    for half in (['--src', 'de'], ['--test', '--tgt', 'de'], ['--extract'], ['--input', 'x']):
        assert 'say what to translate' in fail('translate.py', *common, *half)
    for two in (['--test', '--extract'], ['--test', '--input', 'x'], ['--extract', '--input', 'x']):
        assert 'only one of --test, --extract, --export and --input' in fail('translate.py', *common, *EN_DE, *two)
    (tmp_path / 'bad.pt').write_bytes(b'no checkpoint')
    assert 'bad.pt is not a minispec checkpoint' in fail('translate.py', *common, '--model', tmp_path / 'bad.pt',
                                                         '--test')
    assert 'standard input, line 2: not UTF-8' in fail('translate.py', *common, *EN_DE, stdin=b'a\n\xff\n')
    assert 'not a length penalty' in fail('translate.py', *common, '--test', '--length-penalty', 1000)
    assert '-1 is not a seed' in fail('translate.py', *common, '--test', '--seed', -1)
    assert not (tmp_path / 'big').exists() and not list(tmp_path.glob('base*'))


@pytest.mark.parametrize('name, content, said', [
    ('train.de', b'ein\n' * 199, ['train.en has 200 lines', 'train.de has 199']),
    ('train.fr', 'fen\xeatre\n'.encode('latin-1') * 200, ['train.fr, line 1: not UTF-8']),
    ('valid.fr', b'\n' * 30, ['valid.en', 'valid.fr', 'no pair of lines']),
])
def test_broken_training_text_is_named_and_no_checkpoint_is_written(corpus_folder, tmp_path, name, content, said):
    shutil.copytree(corpus_folder, tmp_path / 'data')
    (tmp_path / 'data' / name).write_bytes(content)
    message = fail('train.py', '--data', tmp_path / 'data', '--run', tmp_path / 'run', *SMALL, *SHORT)
    assert all(part in message for part in said), message
    assert not list(tmp_path.glob('run/base*'))  # at most encoded text, kept for the next start


def test_a_test_split_that_is_out_of_step_is_not_scored(pipeline, common, corpus_folder, tmp_path):
    shutil.copytree(corpus_folder, tmp_path / 'data')
    (tmp_path / 'data' / 'test.de').write_bytes(b'ein\n' * 19)
    assert 'has 20 lines but' in fail('translate.py', '--data', tmp_path / 'data', *common[2:], '--test')


def test_a_run_folder_that_is_a_file_is_said_at_once(corpus_folder, tmp_path):
    (tmp_path / 'file').write_bytes(b'mine')
    assert 'cannot make the folder' in fail('train.py', '--data', corpus_folder, '--run', tmp_path / 'file', *SMALL,
                                            *SHORT)
    assert (tmp_path / 'file').read_bytes() == b'mine'
