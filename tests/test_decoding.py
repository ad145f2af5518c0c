"""Search with caches and shrinking batches, against a search that has neither and one that tries everything."""
import pytest
import torch
from conftest import make_batch, tiny_model

from minispec.decoding import search, translate
from minispec.model import EOS, PAD

TAGS = torch.tensor([3, 4, 5, 4])


@torch.no_grad()
def next_log_probs(model, src, task, prefixes):
    """Log-probabilities (n, V) after each of the prefixes (n, T), all tokens anew, for one sentence without padding."""
    n = len(prefixes)
    memory, src_mask = model.encode(src[None], task[None])
    x = model.decode(prefixes, task.expand(n), model.new_cache(memory.expand(n, -1, -1)), src_mask)
    log_probs = model.project(x[:, -1]).log_softmax(-1)
    log_probs[:, PAD] = -torch.inf
    return log_probs


def plain_search(model, src, task, tag, beam, length_penalty):
    """Beam search over one sentence in plain lists."""
    bound = min(2 * len(src) + 10, model.config.max_len - 1)
    live, ended = [(0.0, [tag])], []
    for n in range(1, bound + 1):
        log_probs = next_log_probs(model, src, task, torch.tensor([prefix for _, prefix in live])).tolist()
        candidates = [(total + log_prob, prefix + [token]) for (total, prefix), each in zip(live, log_probs)
                      for token, log_prob in enumerate(each)]
        candidates.sort(key=lambda candidate: -candidate[0])
        for total, prefix in candidates[:beam]:
            if prefix[-1] == EOS or n == bound:
                ended.append((total / n ** length_penalty, prefix))
        if len(ended) >= beam:
            break
        live = [candidate for candidate in candidates[:2 * beam] if candidate[1][-1] != EOS][:beam]
    best = max(ended, key=lambda candidate: candidate[0])[1]
    return [token for token in best[1:] if token != EOS]


def exhaustive_search(model, src, task, tag, length_penalty):
    """The best of all sequences that end with </s>, or are as long as the model's positions allow."""
    bound = model.config.max_len - 1
    words = [token for token in range(model.config.vocab_size) if token not in (PAD, EOS)]
    prefixes, totals = torch.tensor([[tag]]), torch.zeros(1)
    best_score, best = -torch.inf, None
    for n in range(1, bound + 1):
        sums = totals[:, None] + next_log_probs(model, src, task, prefixes)  # (prefixes, V)
        ends = sums if n == bound else sums[:, [EOS]]
        if ends.max() / n ** length_penalty > best_score:
            best_score = ends.max() / n ** length_penalty
            row, column = divmod(int(ends.argmax()), ends.size(1))
            best = prefixes[row, 1:].tolist() + ([column] if n == bound and column != EOS else [])
        grown = prefixes.repeat_interleave(len(words), 0)
        prefixes = torch.cat([grown, torch.tensor(words).repeat(len(prefixes))[:, None]], dim=1)
        totals = sums[:, words].flatten()
    return best


def end_sooner(model, strength):
    """Make </s> likelier everywhere, or less likely."""
    with torch.no_grad():
        model.decoder_norm.bias += strength * model.embedding.weight[EOS]  # a vector of length 1
    return model


@pytest.fixture
def talkative(model):
    """The random model, made to end its sentences after a few tokens now and then."""
    return end_sooner(model, 1.2)


@pytest.mark.parametrize('beam, length_penalty', [(1, 1.0), (2, 0.0), (5, 1.0)])
def test_cached_is_uncached(talkative, batch, beam, length_penalty):
    found = search(talkative, batch.src, batch.task, TAGS, beam, length_penalty)
    expected = [plain_search(talkative, src[src != PAD], task, int(tag), beam, length_penalty)
                for src, task, tag in zip(batch.src, batch.task, TAGS)]
    assert found == expected
    assert len({len(row) for row in found}) > 1  # sentences did leave the batch at different times


@pytest.mark.parametrize('settings, length_penalty', [({'length_penalty': 0.0}, 0.0), ({}, 1.0)], ids=['0', 'default'])
def test_beam_search_finds_what_exhaustive_search_finds(settings, length_penalty):
    """Of the 5,000 sequences over ten subwords and four positions; greedy search misses some of the best."""
    model = end_sooner(tiny_model(vocab_size=10, max_len=5), 1.1).eval()
    batch = make_batch([(3, 1), (2, 1), (1, 1)] * 3, [0, 1, 2, 1, 2, 0, 2, 0, 1], vocab_size=10)
    tags = torch.tensor([3, 4, 5] * 3)
    expected = [exhaustive_search(model, src[src != PAD], task, int(tag), length_penalty)
                for src, task, tag in zip(batch.src, batch.task, tags)]
    assert search(model, batch.src, batch.task, tags, **settings) == expected
    assert search(model, batch.src, batch.task, tags, beam=1, **settings) != expected


@torch.no_grad()
def test_tokens_one_by_one_give_what_they_give_at_once(model, batch):
    """So each gets the position that follows from those in the cache."""
    memory, src_mask = model.encode(batch.src, batch.task)
    whole = model.decode(batch.tgt, batch.task, model.new_cache(memory), src_mask)
    cache = model.new_cache(memory)
    steps = [model.decode(batch.tgt[:, i:i + 1], batch.task, cache, src_mask) for i in range(batch.tgt.size(1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_greedy_takes_the_likeliest_token_each_time(talkative, batch):
    for src, task, tag, row in zip(*batch[::2], TAGS, search(talkative, batch.src, batch.task, TAGS, beam=1)):
        prefix = [int(tag)]
        while prefix[-1] != EOS and len(prefix) <= len(row):
            prefix.append(int(next_log_probs(talkative, src[src != PAD], task, torch.tensor([prefix])).argmax()))
        assert prefix[1:len(row) + 1] == row


def test_a_search_that_never_ends_ends_at_its_bound(model):
    batch = make_batch([(1, 1), (9, 1)], [0, 1])
    found = search(end_sooner(model, -50), batch.src, batch.task, TAGS[:2], beam=3)
    assert [len(row) for row in found] == [2 * 3 + 10, model.config.max_len - 1]


def test_search_is_without_dropout(talkative, batch):
    first = search(talkative, batch.src, batch.task, TAGS)
    for module in talkative.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert search(talkative.train(), batch.src, batch.task, TAGS) == first


def test_search_uses_the_masks_of_the_task(talkative, batch):
    before = search(talkative, batch.src, batch.task, TAGS, beam=2)
    assert search(talkative, batch.src, (batch.task + 1) % 3, TAGS, beam=2) != before
    talkative.masks.fill_(True)
    assert search(talkative, batch.src, batch.task, TAGS, beam=2) != before


# Lines of text -------------------------------------------------------------------------------------------------------

LINES = ['the dog sees a cat', '', 'a man runs', 'red ' * 40, 'the big cat', '   ', 'a dog eats the red cat']


def test_lines_come_out_in_their_order_each_as_if_alone(vocabulary):
    """In batches of several and of one; an empty line gives an empty line, and too long a line is cut and named."""
    model = end_sooner(tiny_model(vocab_size=90), 1.0)
    found, too_long = translate(model, vocabulary, LINES, 'en-de', 1, beam=2)
    assert too_long == [4] and [i for i, line in enumerate(found) if not line] == [1, 5]
    for line, text in zip(LINES, found):
        if row := vocabulary.encode([line])[0][:22]:
            src, tag = torch.tensor([[vocabulary.tag('en'), *row, EOS]]), torch.tensor([vocabulary.tag('de')])
            assert [text] == vocabulary.decode(search(model, src, torch.tensor([1]), tag, beam=2))
    assert translate(model, vocabulary, LINES, 'en-de', 1, beam=2, batch_tokens=1) == (found, too_long)
    assert translate(model, vocabulary, [], 'en-de', 1) == ([], [])


def test_translation_scores_hypotheses_by_their_length_unless_told_otherwise(vocabulary):
    model = end_sooner(tiny_model(vocab_size=90), 1.0)
    by_length, _ = translate(model, vocabulary, LINES, 'en-de', 1, beam=5, length_penalty=1.0)
    assert translate(model, vocabulary, LINES, 'en-de', 1)[0] == by_length
    assert translate(model, vocabulary, LINES, 'en-de', 1, length_penalty=0.0)[0] != by_length
