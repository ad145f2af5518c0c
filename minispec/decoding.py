"""Greedy and beam search, with cached keys and values."""
import torch

from minispec.data import make_rows
from minispec.model import EOS, PAD
from minispec.tasks import split_task


@torch.inference_mode()
def search(model, src, task, tag, beam=5, length_penalty=1.0):
    """Translate src (B, S), rows as `data.py` lays them out, by beam search; beam 1 is greedy search.

    task (B,) indexes the model's masks, `tag` (B,) is each sentence's target-language tag. A hypothesis of n tokens,
    </s> included, scores (sum of log-probabilities) / n^length_penalty. A sentence is finished when `beam` hypotheses
    have ended, or at its length bound of twice the source and ten. It then leaves the batch: below, B counts those that
    are left. Returns a list of subword ids for each sentence of src, without tag and </s>.
    """
    model.eval()
    B, device = len(src), src.device
    memory, src_mask = model.encode(src, task)  # (B, S, D), (B, 1, 1, S)
    cache = model.new_cache(memory)
    bound = (2 * (src != PAD).sum(1) + 10).clamp(max=model.config.max_len - 1)  # (B,)
    # From here on a sentence has `beam` rows: row r belongs to sentence r // beam of those still in the batch.
    rows = torch.arange(B, device=device).repeat_interleave(beam)  # (B * beam,)
    sentence = torch.arange(B, device=device)  # (B,): which ones are still in the batch
    tokens, row_task = tag[rows, None], task[rows]  # (B * beam, 1), (B * beam,)
    for layer_cache in cache:
        layer_cache.select(rows, sentence)
    total = torch.full((B, beam), -torch.inf, device=device)  # log-probabilities of the hypotheses
    total[:, 0] = 0.0  # all hypotheses start equal: let only the first one branch
    n_ended = torch.zeros(B, dtype=torch.long, device=device)
    best_score = torch.full((B,), -torch.inf, device=device)
    best = [[] for _ in range(B)]

    for n in range(1, int(bound.max()) + 1):  # each round adds the n-th token
        x = model.decode(tokens[:, -1:], row_task, cache, src_mask)[:, -1]  # (B * beam, D)
        top, parent, token = best_candidates(model.project(x).float().log_softmax(-1), total)  # (B, 2 * beam) each
        ends = token == EOS
        ended = ends[:, :beam] | (bound[sentence] == n)[:, None]  # (B, beam): at the bound all end as they are
        final = (top[:, :beam] / n ** length_penalty).masked_fill(~ended, -torch.inf)  # (B, beam)
        n_ended += ended.sum(1)
        score, best_beam = final.max(1)  # (B,)
        for i in (score > best_score).nonzero().flatten().tolist():
            prefix, last = tokens[i * beam + parent[i, best_beam[i]], 1:].tolist(), int(token[i, best_beam[i]])
            best[sentence[i]] = prefix if last == EOS else [*prefix, last]
        best_score = torch.maximum(best_score, score)

        going = (n_ended < beam).nonzero().flatten()  # (B',): the sentences that go on
        if not len(going):
            return best
        survivors = ends[going].long().argsort(dim=1, stable=True)[:, :beam]  # (B', beam): the best that do not end
        total, parent, token = (x[going].gather(1, survivors) for x in (top, parent, token))  # (B', beam)
        rows = (going[:, None] * beam + parent).flatten()  # (B' * beam,): the row each hypothesis grows from
        tokens = torch.cat([tokens[rows], token.flatten()[:, None]], dim=1)  # (B' * beam, n + 1)
        src_mask, row_task = src_mask[going], row_task[rows]  # B' is now B
        for layer_cache in cache:
            layer_cache.select(rows, going)
        sentence, n_ended, best_score = sentence[going], n_ended[going], best_score[going]


def best_candidates(log_probs, total):
    """The best 2 * beam continuations of a sentence's hypotheses: scores, hypothesis and token, (B, 2 * beam) each.

    log_probs (B * beam, V), total (B, beam). Each hypothesis ends in at most one of them, so `beam` are left to go on.
    """
    n = 2 * total.size(1)
    log_probs[:, PAD] = -torch.inf
    each, token = (x.view(*total.shape, n) for x in log_probs.topk(n))  # (B, beam, 2 * beam): enough of each
    top, index = (total[..., None] + each).flatten(1).topk(n)  # (B, 2 * beam)
    return top, index // n, token.flatten(1).gather(1, index)


def translate(model, vocabulary, lines, task, index, beam=5, length_penalty=1.0, batch_tokens=4096):
    """Translate lines of text in one `task`, which has this `index` in the model. Returns (translations, too_long).

    An empty line gives an empty line. A line longer than the model's positions is cut; `too_long` lists the numbers of
    such lines, from 1. Batches hold sentences of like length, at most batch_tokens source positions times beam.
    """
    src_tag, tgt_tag = (vocabulary.tag(language) for language in split_task(task))
    room = model.config.max_len - 2  # beside tag and </s>
    rows = vocabulary.encode(lines)
    too_long = [number for number, row in enumerate(rows, 1) if len(row) > room]
    rows = [row[:room] for row in rows]
    todo = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
    result = [''] * len(lines)
    device = model.masks.device
    while todo:
        width = len(rows[todo[-1]]) + 2  # the longest first: a batch that fits will always fit again
        n = max(1, batch_tokens // (width * beam))
        batch, todo = todo[-n:], todo[:-n]
        tokens = torch.tensor([token for i in batch for token in rows[i]])  # (all,)
        length = torch.tensor([len(rows[i]) for i in batch])  # (n,)
        src = make_rows(torch.full_like(length, src_tag), tokens, length.cumsum(0) - length, length)  # (n, S)
        found = search(model, src.to(device), torch.full_like(length, index).to(device),
                       torch.full_like(length, tgt_tag).to(device), beam, length_penalty)
        for i, text in zip(batch, vocabulary.decode(found)):
            result[i] = text
    return result, too_long
