"""Search with caches and shrinking batches, against a search that has neither."""
import pytest
import torch
from conftest import make_batch

from minispec.decoding import search
from minispec.model import PAD
from minispec.vocabulary import EOS

TAGS = torch.tensor([3, 4, 5, 4])


@torch.no_grad()
def next_log_probs(model, src, task, prefix):
    """Log-probabilities (V,) after `prefix`, recomputed from the first token on, for one sentence without padding."""
    memory, src_mask = model.encode(src[None], task[None])
    x = model.decode(torch.tensor([prefix]), task[None], model.new_cache(memory), src_mask)
    log_probs = model.project(x[0, -1]).log_softmax(-1)
    log_probs[PAD] = -torch.inf
    return log_probs


def plain_search(model, src, task, tag, beam, length_penalty):
    """Beam search over one sentence in plain lists."""
    bound = min(2 * len(src) + 10, model.config.max_len - 1)
    live, ended = [(0.0, [tag])], []
    for n in range(1, bound + 1):
        candidates = [(score + lp, prefix + [token]) for score, prefix in live
                      for token, lp in enumerate(next_log_probs(model, src, task, prefix).tolist())]
        candidates.sort(key=lambda candidate: -candidate[0])
        for score, prefix in candidates[:beam]:
            if prefix[-1] == EOS or n == bound:
                ended.append((score / n ** length_penalty, prefix))
        if len(ended) >= beam:
            break
        live = [candidate for candidate in candidates[:2 * beam] if candidate[1][-1] != EOS][:beam]
    best = max(ended, key=lambda candidate: candidate[0])[1]
    return [token for token in best[1:] if token != EOS]


@pytest.fixture
def talkative(model):
    """The random model, made to end its sentences after a few tokens now and then."""
    with torch.no_grad():
        model.decoder_norm.bias += 1.2 * model.embedding.weight[EOS] / model.embedding.weight[EOS].norm()
    return model


@pytest.mark.parametrize('length_penalty', [0.0, 1.0])
@pytest.mark.parametrize('beam', [1, 2, 5])
def test_cached_is_uncached(talkative, batch, beam, length_penalty):
    found = search(talkative, batch.src, batch.task, TAGS, beam, length_penalty)
    expected = [plain_search(talkative, src[src != PAD], task, int(tag), beam, length_penalty)
                for src, task, tag in zip(batch.src, batch.task, TAGS)]
    assert found == expected
    assert len({len(row) for row in found}) > 1  # sentences did leave the batch at different times


def test_greedy_takes_the_likeliest_token_each_time(talkative, batch):
    for src, task, tag, row in zip(batch.src, batch.task, TAGS, search(talkative, batch.src, batch.task, TAGS, beam=1)):
        prefix = [int(tag)]
        while prefix[-1] != EOS and len(prefix) <= len(row):
            prefix.append(int(next_log_probs(talkative, src[src != PAD], task, prefix).argmax()))
        assert prefix[1:len(row) + 1] == row


def test_a_search_that_never_ends_ends_at_its_bound(model):
    with torch.no_grad():
        model.decoder_norm.bias -= 50 * model.embedding.weight[EOS] / model.embedding.weight[EOS].norm()
    batch = make_batch([(1, 1), (9, 1)], [0, 1])
    found = search(model, batch.src, batch.task, TAGS[:2], beam=3)
    assert [len(row) for row in found] == [2 * 3 + 10, model.config.max_len - 1]


def test_search_is_without_dropout(talkative, batch):
    first = search(talkative, batch.src, batch.task, TAGS)
    for module in talkative.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    talkative.train()
    assert search(talkative, batch.src, batch.task, TAGS) == first


def test_the_mask_of_a_direction_is_used_in_translation(talkative, batch):
    before = search(talkative, batch.src, batch.task, TAGS, beam=2)
    talkative.masks.fill_(True)
    assert search(talkative, batch.src, batch.task, TAGS, beam=2) != before
