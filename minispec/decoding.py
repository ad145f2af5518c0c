"""Greedy and beam search, with cached keys and values."""
import torch

from minispec.data import make_rows
from minispec.model import EOS, UNK
from minispec.tasks import split_task

TOO_LONG = 'longer than the model can read, and cut'
UNKNOWN = 'with characters that the training text did not have'
CUT = 'translated only in part, up to the length bound'


@torch.inference_mode()
def search(model, src, task, tag, bound, forbidden_ids, beam=5, length_penalty=1.0):
    """Translate src (B, S), rows as `data.py` lays them out, by beam search; beam 1 is greedy search.

    task (B,) indexes the model's masks. tag (B,) is each sentence's target-language tag. bound (B,) is the maximum
    length of its translation, </s> included, and `forbidden_ids` lists what none may contain. A hypothesis of n tokens,
    </s> included, scores (sum of log-probabilities) / n^length_penalty. A sentence is done when `beam` hypotheses have
    ended, or at its bound. It then leaves the batch: below, B counts those that are left. Returns a list of subword ids
    for each sentence of src, without tag and </s>, and the indices of those that are cut: none had ended at the bound.
    """
    model.eval()
    B, device = len(src), src.device
    memory, src_mask = model.encode(src, task)  # (B, S, D), (B, 1, 1, S)
    cache = model.new_cache(memory)
    bound = bound.clamp(max=model.config.max_len - 1)  # (B,)
    # From here on a sentence has `beam` rows: row r belongs to sentence r // beam of those still in the batch.
    rows = torch.arange(B, device=device).repeat_interleave(beam)  # (B * beam,)
    sentence = torch.arange(B, device=device)  # (B,): which ones are still in the batch
    tokens, row_task = tag[rows, None], task[rows]  # (B * beam, 1), (B * beam,)
    for layer_cache in cache:
        layer_cache.select(rows, sentence)
    total = torch.full((B, beam), -torch.inf, device=device)  # log-probabilities of the hypotheses
    total[:, 0] = 0.0  # all hypotheses start equal: let only the first one branch
    n_ended, best_score = torch.zeros(B, dtype=torch.long, device=device), torch.full((B,), -torch.inf, device=device)
    best, cut = [[] for _ in range(B)], set()
    for n in range(1, int(bound.max()) + 1):  # each round adds the n-th token
        x = model.decode(tokens[:, -1:], row_task, cache, src_mask)[:, -1]  # (B * beam, D)
        top, parent, token = best_candidates(model.project(x), total, forbidden_ids)  # (B, 2 * beam) each
        ends = token == EOS
        final = (top[:, :beam] / n ** length_penalty).masked_fill(~ends[:, :beam], -torch.inf)  # (B, beam)
        n_ended += ends[:, :beam].sum(1)
        score, best_beam = final.max(1)  # (B,)
        at_bound = bound[sentence] == n  # (B,)
        cut_now = at_bound & torch.maximum(best_score, score).isneginf()  # (B,); best_beam is 0 there: the likeliest
        for i in ((score > best_score) | cut_now).nonzero().flatten().tolist():
            prefix, last = tokens[i * beam + parent[i, best_beam[i]], 1:].tolist(), int(token[i, best_beam[i]])
            best[sentence[i]] = prefix if last == EOS else [*prefix, last]
        cut |= set(sentence[cut_now].tolist())
        best_score = torch.maximum(best_score, score)

        going = ((n_ended < beam) & ~at_bound).nonzero().flatten()  # (B',): the sentences that go on
        if not len(going):
            return best, cut
        survivors = ends[going].long().argsort(dim=1, stable=True)[:, :beam]  # (B', beam): the best that do not end
        total, parent, token = (x[going].gather(1, survivors) for x in (top, parent, token))  # (B', beam)
        rows = (going[:, None] * beam + parent).flatten()  # (B' * beam,): the row each hypothesis grows from
        tokens = torch.cat([tokens[rows], token.flatten()[:, None]], dim=1)  # (B' * beam, n + 1)
        src_mask, row_task = src_mask[going], row_task[rows]  # B' is now B
        for layer_cache in cache:
            layer_cache.select(rows, going)
        sentence, n_ended, best_score = sentence[going], n_ended[going], best_score[going]


def best_candidates(scores, total, forbidden_ids):
    """The best 2 * beam continuations of a sentence's hypotheses: sums of log-probabilities, hypothesis and token.

    scores (B * beam, V) are logits, total (B, beam); returns (B, 2 * beam) each. Each hypothesis has one continuation
    that ends, so at least `beam` of the 2 * beam do not end.
    """
    log_probs = scores.float().log_softmax(-1)  # (B * beam, V)
    log_probs[:, forbidden_ids] = -torch.inf
    n = 2 * total.size(1)
    each, token = (x.view(*total.shape, n) for x in log_probs.topk(n))  # (B, beam, 2 * beam)
    top, index = (total[..., None] + each).flatten(1).topk(n)  # (B, 2 * beam)
    return top, index // n, token.flatten(1).gather(1, index)


def translate(checkpoint, lines, task, beam=5, length_penalty=1.0, batch_tokens=4096):
    """Translate lines of text in one of the checkpoint's tasks. Returns the translations, and notes on what went wrong.

    An empty line gives an empty line. The notes are {TOO_LONG, UNKNOWN or CUT: numbers of lines, from 1}. The length
    bound is 2 * r * source length + 10 subwords, where r is the task's ratio from `Bitext.length_ratios`. A batch holds
    sentences of similar length; its source positions times beam are at most batch_tokens.
    """
    model, vocabulary = checkpoint.model, checkpoint.vocabulary
    src_tag, tgt_tag = (vocabulary.tag(language) for language in split_task(task))
    room = model.config.max_len - 2  # beside tag and </s>
    rows = vocabulary.encode(lines)
    notes = {TOO_LONG: [number for number, row in enumerate(rows, 1) if len(row) > room],
             UNKNOWN: [number for number, row in enumerate(rows, 1) if UNK in row], CUT: []}
    rows = [row[:room] for row in rows]
    todo = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
    result = [''] * len(lines)
    device, index, forbidden_ids = model.masks.device, checkpoint.tasks.index(task), vocabulary.forbidden_ids
    ratios = checkpoint.data['length_ratios']
    ratio = ratios.get(task, max(ratios.values()))  # a zero-shot task has none
    while todo:
        width = len(rows[todo[-1]]) + 2  # longest first: if the first batch fits into memory, all do
        n = max(1, batch_tokens // (width * beam))
        batch, todo = todo[-n:], todo[:-n]
        tokens = torch.tensor([token for i in batch for token in rows[i]])  # (all,)
        length = torch.tensor([len(rows[i]) for i in batch])  # (n,)
        src = make_rows(torch.full_like(length, src_tag), tokens, length.cumsum(0) - length, length)  # (n, S)
        bound = (2 * ratio * length).long() + 10  # (n,)
        inputs = [src, torch.full_like(length, index), torch.full_like(length, tgt_tag), bound]
        found, cut = search(model, *(x.to(device) for x in inputs), forbidden_ids, beam, length_penalty)
        for i, text in zip(batch, vocabulary.decode(found)):
            result[i] = text
        notes[CUT] += [batch[i] + 1 for i in cut]
    return result, {cause: sorted(numbers) for cause, numbers in notes.items() if numbers}
