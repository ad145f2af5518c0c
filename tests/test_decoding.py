"""Search with caches and shrinking batches, against a search that has neither and one that tries everything."""
import pytest
import torch
from conftest import describe, make_batch, tiny_model

from minispec.checkpoint import Checkpoint
from minispec.decoding import CUT, TOO_LONG, UNKNOWN, search, translate
from minispec.model import EOS, PAD, UNK, sinusoids

TAGS = torch.tensor([3, 4, 5, 4])
NEVER = [PAD, UNK, 3, 4, 5]


def bounds(src):
    """The most tokens that a translation may have in these tests."""
    return 2 * (src != PAD).sum(-1) + 10  # (B,), or of a single sentence


def find(model, batch, tags=TAGS, never=NEVER, **settings):
    """What `search` finds for a Batch."""
    return search(model, batch.src, batch.task, tags, bounds(batch.src), never, **settings)[0]


@torch.no_grad()
def next_log_probs(model, src, task, prefixes, never=NEVER):
    """Log-probabilities (n, V) after each of the prefixes (n, T), all tokens anew, for one sentence without padding."""
    n = len(prefixes)
    memory, src_mask = model.encode(src[None], task[None])
    x = model.decode(prefixes, task.expand(n), model.new_cache(memory.expand(n, -1, -1)), src_mask)
    log_probs = model.project(x[:, -1]).log_softmax(-1)
    log_probs[:, never] = -torch.inf
    return log_probs


def plain_search(model, src, task, tag, beam, length_penalty, bound=None):
    """Beam search over one sentence in plain lists."""
    bound = min(bound or int(bounds(src)), model.config.max_len - 1)
    live, ended = [(0.0, [tag])], []
    for n in range(1, bound + 1):
        log_probs = next_log_probs(model, src, task, torch.tensor([prefix for _, prefix in live])).tolist()
        candidates = [(total + log_prob, prefix + [token]) for (total, prefix), each in zip(live, log_probs)
                      for token, log_prob in enumerate(each)]
        candidates.sort(key=lambda candidate: -candidate[0])
        for total, prefix in candidates[:beam]:
            if prefix[-1] == EOS:
                ended.append((total / n ** length_penalty, prefix))
        if len(ended) >= beam:
            break
        live = [candidate for candidate in candidates[:2 * beam] if candidate[1][-1] != EOS][:beam]
    if not ended:
        return candidates[0][1][1:]
    return max(ended, key=lambda candidate: candidate[0])[1][1:-1]


def exhaustive_search(model, src, task, tag, length_penalty):
    """The best of all sequences that end with </s> and fit the model's positions."""
    words = [token for token in range(model.config.vocab_size) if token not in (PAD, EOS)]
    prefixes, totals = torch.tensor([[tag]]), torch.zeros(1)
    best_score, best = -torch.inf, None
    for n in range(1, model.config.max_len):
        sums = totals[:, None] + next_log_probs(model, src, task, prefixes, [PAD])  # (prefixes, V)
        ends = sums[:, EOS]  # (prefixes,)
        if ends.max() / n ** length_penalty > best_score:
            best_score, best = ends.max() / n ** length_penalty, prefixes[ends.argmax(), 1:].tolist()
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
    found = find(talkative, batch, beam=beam, length_penalty=length_penalty)
    expected = [plain_search(talkative, src[src != PAD], task, int(tag), beam, length_penalty)
                for src, task, tag in zip(batch.src, batch.task, TAGS)]
    assert found == expected
    assert len({len(row) for row in found}) > 1  # sentences did leave the batch at different times


@pytest.mark.parametrize('settings, length_penalty', [({'length_penalty': 0.0}, 0.0), ({}, 1.0)], ids=['0', 'default'])
def test_beam_search_finds_what_exhaustive_search_finds(settings, length_penalty):
    """Of the 5,000 sequences over ten subwords and four positions; greedy search misses some of the best."""
    model = end_sooner(tiny_model(vocab_size=10, max_len=5), 1.6).eval()
    batch = make_batch([(3, 1), (2, 1), (1, 1)] * 3, [0, 1, 2, 1, 2, 0, 2, 0, 1], vocab_size=10)
    tags = torch.tensor([3, 4, 5] * 3)
    expected = [exhaustive_search(model, src[src != PAD], task, int(tag), length_penalty)
                for src, task, tag in zip(batch.src, batch.task, tags)]
    assert find(model, batch, tags, [PAD], **settings) == expected
    assert find(model, batch, tags, [PAD], beam=1, **settings) != expected


@torch.no_grad()
def test_tokens_one_by_one_give_what_they_give_at_once(model, batch):
    """So each token gets the position after those in the cache."""
    memory, src_mask = model.encode(batch.src, batch.task)
    whole = model.decode(batch.tgt, batch.task, model.new_cache(memory), src_mask)
    cache = model.new_cache(memory)
    steps = [model.decode(batch.tgt[:, i:i + 1], batch.task, cache, src_mask) for i in range(batch.tgt.size(1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_greedy_takes_the_likeliest_token_each_time(talkative, batch):
    for src, task, tag, row in zip(*batch[::2], TAGS, find(talkative, batch, beam=1)):
        prefix = [int(tag)]
        while prefix[-1] != EOS and len(prefix) <= len(row):
            prefix.append(int(next_log_probs(talkative, src[src != PAD], task, torch.tensor([prefix])).argmax()))
        assert prefix[1:len(row) + 1] == row


def test_a_sentence_that_never_ends_is_cut_at_its_bound(model):
    batch = make_batch([(1, 1), (9, 1)], [0, 1])
    found, cut = search(end_sooner(model, -50), batch.src, batch.task, TAGS[:2], torch.tensor([7, 90]), NEVER, beam=3)
    assert [len(row) for row in found] == [7, model.config.max_len - 1] and cut == {0, 1}


def test_a_hypothesis_that_is_cut_never_beats_a_finished_one(talkative, batch):
    """With a bound so short that for some sentences no hypothesis ends, and for others only a bad one does."""
    expected = [plain_search(talkative, src[src != PAD], task, int(tag), 4, 0.0, bound=3)
                for src, task, tag in zip(batch.src, batch.task, TAGS)]
    found, cut = search(talkative, batch.src, batch.task, TAGS, torch.full((4,), 3), NEVER, beam=4, length_penalty=0.0)
    assert found == expected and cut == {i for i, row in enumerate(found) if len(row) == 3} and 0 < len(cut) < 4


def test_unknown_subwords_tags_and_padding_are_never_written(model, batch):
    """Even if they are the likeliest, and the beam so wide that every subword is a candidate."""
    with torch.no_grad():
        model.decoder_norm.bias += 5 * model.embedding.weight[NEVER].sum(0)
    for beam in (1, 5, 15):
        assert not {token for row in find(model, batch, beam=beam) for token in row} & {*NEVER, EOS}


def test_search_is_without_dropout(talkative, batch):
    first = find(talkative, batch)
    for module in talkative.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert find(talkative.train(), batch) == first


def test_search_uses_the_masks_of_the_task(talkative, batch):
    before = find(talkative, batch, beam=2)
    assert find(talkative, batch._replace(task=(batch.task + 1) % 3), beam=2) != before
    talkative.masks.fill_(True)
    assert find(talkative, batch, beam=2) != before


# Lines of text -------------------------------------------------------------------------------------------------------

LINES = ['the dog sees a cat', '', 'a man runs', 'red ' * 40, 'the big cat', '   ', 'a dog eats the red cat']


@pytest.fixture
def checkpoint(vocabulary):
    """A model that translates LINES into babble of moderate length."""
    model, tasks = end_sooner(tiny_model(vocab_size=90), 1.0), ['de-en', 'en-de', 'en-fr']
    return Checkpoint(model, vocabulary, tasks, describe(tasks), {})


def test_lines_come_out_in_their_order_each_as_if_alone(checkpoint, vocabulary):
    """In batches of several and of one; an empty line gives an empty line, and too long a line is cut and named."""
    found, notes = translate(checkpoint, LINES, 'en-de', beam=2)
    assert notes[TOO_LONG] == [4] and [i for i, line in enumerate(found) if not line] == [1, 5]
    for line, text in zip(LINES, found):
        if row := vocabulary.encode([line])[0][:22]:
            src, tag = torch.tensor([[vocabulary.tag('en'), *row, EOS]]), torch.tensor([vocabulary.tag('de')])
            alone, _ = search(checkpoint.model, src, torch.tensor([1]), tag, torch.tensor([2 * len(row) + 10]),
                              vocabulary.forbidden_ids, beam=2)
            assert [text] == vocabulary.decode(alone)
    assert translate(checkpoint, LINES, 'en-de', beam=2, batch_tokens=1) == (found, notes)
    assert translate(checkpoint, [], 'en-de') == ([], {})


def test_the_length_bound_follows_the_ratio_of_the_training_text_and_is_said(checkpoint):
    """Twice the ratio times the source's subwords, plus ten; a direction without a ratio takes the largest."""
    end_sooner(checkpoint.model, -50)
    checkpoint.model.positions = sinusoids(200, 16)
    checkpoint.model.config.max_len = 200
    rows = checkpoint.vocabulary.encode(LINES)
    for ratios, ratio in (({'en-de': 0.5, 'en-fr': 3.0}, 0.5), ({'en-fr': 3.0, 'de-en': 2.0}, 3.0)):
        checkpoint.data['length_ratios'] = ratios
        found, notes = translate(checkpoint, LINES, 'en-de', beam=1)
        lengths = [len(row) for row in checkpoint.vocabulary.encode(found)]
        bounds = [min(int(2 * ratio * len(row)) + 10, 199) if row else 0 for row in rows]
        assert all(length <= bound for length, bound in zip(lengths, bounds))
        assert notes[CUT] == [i for i, row in enumerate(rows, 1) if row] and TOO_LONG not in notes


def test_a_line_with_unknown_characters_is_named(checkpoint):
    assert translate(checkpoint, ['a dog', '', 'a Ж', 'ЖЖ'], 'en-de')[1][UNKNOWN] == [3, 4]


def test_translation_scores_hypotheses_by_their_length_unless_told_otherwise(checkpoint):
    by_length, _ = translate(checkpoint, LINES, 'en-de', beam=5, length_penalty=1.0)
    assert translate(checkpoint, LINES, 'en-de')[0] == by_length
    assert translate(checkpoint, LINES, 'en-de', length_penalty=0.0)[0] != by_length
