"""What several tests share: a tiny model, tiny batches, a tiny corpus and its vocabulary. Offline, on the CPU."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
torch.set_num_threads(1)  # tensors this small gain nothing from more

from minispec.data import Batch, Vocabulary  # noqa: E402
from minispec.model import EOS, PAD, Config, Transformer  # noqa: E402

WORDS = {'en': 'a the dog cat man sees red big runs eats'.split(),
         'de': 'ein der Hund Katze Mann sieht rot groß läuft isst'.split(),
         'fr': 'un le chien chat homme voit rouge grand court mange'.split()}


def tiny_model(vocab_size=30, max_len=24):
    """Three tasks, 2 + 2 layers of 16 neurons, no dropout; its masks are random, about half of the neurons each."""
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size, n_tasks=3, d_model=16, d_ff=16, layers=2, heads=2, dropout=0.0,
                               max_len=max_len))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms must not hide mistakes behind their zeros and ones
                parameter += 0.1 * torch.randn(parameter.shape)
        # Random positions, tokens of equal weight, strong layers: else every sentence would be one token repeated.
        model.positions.copy_(2 * torch.randn(model.positions.shape))
        model.embedding.weight.copy_(torch.nn.functional.normalize(model.embedding.weight))
        for layer in model.decoder:
            layer.self_attention.out.weight *= 4
            layer.cross_attention.out.weight *= 4
            layer.ffn.w2.weight *= 4
    model.masks.copy_(torch.rand(model.masks.shape) < 0.5)
    return model


@pytest.fixture
def model():
    return tiny_model()


def make_batch(lengths, tasks, seed=0, vocab_size=30):
    """Random sentences: `lengths` gives (source, target) subwords of each, tag and </s> not counted."""
    generator = torch.Generator().manual_seed(seed)

    def rows(sizes):
        out = torch.full((len(sizes), max(sizes) + 2), PAD)
        for row, size in zip(out, sizes):
            row[:size + 2] = torch.randint(3, vocab_size, (size + 2,), generator=generator)
            row[size + 1] = EOS
        return out

    return Batch(rows([src for src, _ in lengths]), rows([tgt for _, tgt in lengths]), torch.tensor(tasks))


@pytest.fixture
def batch():
    """Four sentences of different lengths, of all three tasks."""
    return make_batch([(5, 7), (3, 4), (8, 2), (5, 7)], [0, 1, 2, 1])


def write_corpus(folder):
    """A line-aligned corpus of three languages: word-for-word ciphers of each other. Returns its folder."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for split, n in (('train', 200), ('valid', 30), ('test', 20)):
        lengths = torch.randint(2, 8, (n,), generator=generator).tolist()
        sentences = [torch.randint(10, (length,), generator=generator).tolist() for length in lengths]
        for language, words in WORDS.items():
            text = ''.join(' '.join(words[i] for i in sentence) + '\n' for sentence in sentences)
            (folder / f'{split}.{language}').write_text(text, encoding='utf-8', newline='\n')
    return folder


@pytest.fixture(scope='session')
def corpus_folder(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp('corpus') / 'tiny')


@pytest.fixture(scope='session')
def vocabulary(corpus_folder):
    """90 subwords of the tiny corpus."""
    return Vocabulary.train({language: [corpus_folder / f'train.{language}'] for language in sorted(WORDS)}, 90)


def learn_vocabulary(folder, size, **lines):
    """A Vocabulary learned from lines of text, given by language."""
    files = {language: [folder / f'vocabulary.{language}'] for language in lines}
    for language, (path,) in files.items():
        path.write_text(''.join(f'{line}\n' for line in lines[language]), encoding='utf-8', newline='\n')
    return Vocabulary.train(files, size)


def describe(tasks):
    """What a Checkpoint of a test says of the text that it was trained on."""
    return {'source': 'phrasebook', 'train': '', 'valid': '', 'pairs': dict.fromkeys(tasks, 1),
            'length_ratios': dict.fromkeys(tasks, 1.0), 'words': {}}
