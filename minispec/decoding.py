"""Greedy and beam search, with cached keys and values."""
import torch

from minispec.model import PAD
from minispec.vocabulary import EOS


@torch.inference_mode()
def search(model, src, task, tag, beam=5, length_penalty=1.0):
    """Translate src (B, S), rows <tag> pieces </s> PAD ..., by beam search; beam 1 is greedy search.

    task (B,) indexes the model's masks, `tag` (B,) is each sentence's target-language tag. A hypothesis of n tokens,
    </s> included, scores (sum of log-probabilities) / n^length_penalty. A sentence is finished when `beam` hypotheses
    have ended, or at its length bound of twice the source and ten; it then leaves the batch, and the rest go on without
    it. Returns B lists of piece ids, without tag and </s>. A sentence's result does not depend on the batch around it,
    beyond rounding.

    Below, B counts the sentences still in the batch, and K is `beam`.
    """
    model.eval()
    B, K, device = len(src), beam, src.device
    memory, src_mask = model.encode(src, task)  # (B, S, D), (B, 1, 1, S)
    cache = model.new_cache(memory)
    bound = (2 * (src != PAD).sum(1) + 10).clamp(max=model.config.max_len - 1)  # (B,)
    # From here on a sentence has K rows, one a beam: row r belongs to sentence r // K of those still in the batch.
    rows = torch.arange(B, device=device).repeat_interleave(K)  # (B*K,)
    sentence = torch.arange(B, device=device)  # which ones are still in the batch
    tokens, row_task = tag[rows, None], task[rows]
    for layer_cache in cache:
        layer_cache.select(rows, sentence)
    total = torch.full((B, K), -torch.inf, device=device)  # their log-probabilities
    total[:, 0] = 0.0  # the K beams start equal: let only the first one branch
    n_ended = torch.zeros(B, dtype=torch.long, device=device)
    best_score = torch.full((B,), -torch.inf, device=device)
    best = [[] for _ in range(B)]

    for n in range(1, int(bound.max()) + 1):  # each round adds the n-th token
        x = model.decode(tokens[:, -1:], row_task, cache, src_mask)[:, -1]  # (B*K, D)
        log_probs = model.project(x).float().log_softmax(-1)  # (B*K, V)
        log_probs[:, PAD] = -torch.inf
        # Of 2K candidates at most K end, so K remain to go on with. Each beam's best 2K are enough to find them.
        each, token = (x.view(-1, K, 2 * K) for x in log_probs.topk(2 * K))  # (B, K, 2K)
        top, index = (total[..., None] + each).flatten(1).topk(2 * K)  # (B, 2K)
        parent, token = index // (2 * K), token.flatten(1).gather(1, index)  # (B, 2K)
        ends = token == EOS

        ended = ends[:, :K] | (bound[sentence] == n)[:, None]  # (B, K): at the bound all end as they are
        final = (top[:, :K] / n ** length_penalty).masked_fill(~ended, -torch.inf)  # (B, K)
        n_ended += ended.sum(1)
        score, best_beam = final.max(1)  # (B,)
        for i in (score > best_score).nonzero().flatten().tolist():
            row = tokens[i * K + parent[i, best_beam[i]], 1:].tolist() + [int(token[i, best_beam[i]])]
            best[sentence[i]] = row[:-1] if row[-1] == EOS else row
        best_score = torch.maximum(best_score, score)

        going = (n_ended < K).nonzero().flatten()  # (B',): the sentences that go on
        if not len(going):
            break
        survivors = ends[going].long().argsort(dim=1, stable=True)[:, :K]  # (B', K): the best that do not end
        total, parent, token = (x[going].gather(1, survivors) for x in (top, parent, token))  # (B', K)
        rows = (going[:, None] * K + parent).flatten()  # (B'*K,): the row each beam grows from
        tokens = torch.cat([tokens[rows], token.flatten()[:, None]], dim=1)  # (B'*K, n + 1)
        src_mask, row_task = src_mask[going], row_task[rows]  # B' is now B
        for layer_cache in cache:
            layer_cache.select(rows, going)
        sentence, n_ended, best_score = sentence[going], n_ended[going], best_score[going]
    return best


def translate(model, vocabulary, lines, direction, task, beam=5, length_penalty=1.0, batch_tokens=4096):
    """Translate lines of text in one direction. Returns (translations, too_long): as many lines, in the same order.

    An empty line gives an empty line. A line longer than the model's positions is cut; `too_long` lists the numbers of
    such lines, from 1. Batches hold sentences of like length, at most batch_tokens source positions times beam.
    """
    src_language, tgt_language = direction.split('-')
    room = model.config.max_len - 2  # beside tag and </s>
    rows = vocabulary.encode(lines)
    too_long = [number for number, row in enumerate(rows, 1) if len(row) > room]
    todo = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
    result = [''] * len(lines)
    device = model.masks.device
    while todo:
        width = min(len(rows[todo[-1]]), room) + 2  # the longest first: a batch that fits will always fit again
        n = max(1, batch_tokens // (width * beam))
        batch, todo = todo[-n:], todo[:-n]
        src = torch.full((len(batch), width), PAD)
        for row, i in zip(src, batch):
            pieces = [vocabulary.tag(src_language), *rows[i][:room], EOS]
            row[:len(pieces)] = torch.tensor(pieces)
        found = search(model, src.to(device), torch.full((len(batch),), task, device=device),
                       torch.full((len(batch),), vocabulary.tag(tgt_language), device=device), beam, length_penalty)
        for i, text in zip(batch, vocabulary.decode(found)):
            result[i] = text
    return result, too_long
