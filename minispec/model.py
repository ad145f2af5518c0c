"""The Transformer of the paper, with feed-forward networks that can be narrowed to the neurons of one task.

A *task* is a translation direction, such as en-de. Symbols, the same in every file of this project:

    B  sentences in a batch      D  model width, d_model      N  tasks
    S  source length             F  FFN neurons, d_ff         L  FFN layers: the encoder's first, then the decoder's
    T  target length             H  attention heads           V  vocabulary size

(Where a module serves encoder and decoder alike, its rows are T long on either side.)

Everything but the masks is the pre-norm Transformer that multilingual translation commonly uses: one embedding table
for source, target and output, sinusoidal positions, ReLU in the feed-forward networks.
"""
import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import nn

PAD = 0  # the token that fills a batch's short rows; attention, loss and neuron counts never see it


@dataclass
class Config:
    """The shape of a model; a checkpoint carries it, so that weights are never loaded into another shape."""
    vocab_size: int
    n_tasks: int
    d_model: int = 128
    d_ff: int | list = 256  # neurons of each FFN layer; in a slim model a list of L numbers
    layers: int = 2  # in the encoder, and again in the decoder: L = 2 * layers
    heads: int = 4
    dropout: float = 0.1
    max_len: int = 256  # positions, the language tag and the end of sentence included


class Attention(nn.Module):
    """Multi-head attention. Keys and values come from outside, so that decoding can compute them once and keep them."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model)  # one product for both is faster than two
        self.out = nn.Linear(config.d_model, config.d_model)

    def split_heads(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)

    def keys_values(self, x):
        """The keys and the values of x (B, S, D), each (B, H, S, D/H)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)  # (B, S, D) each
        return self.split_heads(keys), self.split_heads(values)

    def forward(self, x, keys, values, mask=None, causal=False):
        """Let x (B, T, D) look at the keys: where `mask` (B, 1, 1, S) is true, or if causal, none that comes later.

        Returns (B, T, D).
        """
        queries = self.split_heads(self.query(x))  # (B, H, T, D/H)
        attend = nn.functional.scaled_dot_product_attention
        heads = attend(queries, keys, values, mask, is_causal=causal)  # (B, H, T, D/H)
        return self.out(heads.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    """FFN_t(H) = (ReLU(H W1 + b1) * m_t) W2 + b2, the masked network of Eq. 2 and 3.

    A neuron with m_t = 0 is off for task t. Its output is exactly 0, and so is the gradient that sentences of t send
    to its row of W1, its entry of b1 and its column of W2: forward and backward, t runs through its own neurons alone.
    """

    def __init__(self, d_model, d_ff):
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff)
        self.relu = nn.ReLU()  # a module, not a function, so that `neurons.record` can listen to its output
        self.w2 = nn.Linear(d_ff, d_model)

    def forward(self, x, mask):
        """x (B, T, D); mask (B, 1, F), each sentence's row being its task's m_t. Returns (B, T, D)."""
        h = self.relu(self.w1(x))  # (B, T, F)
        return self.w2(h * mask)  # (B, T, D)


class Dropout(nn.Dropout):
    """nn.Dropout, which on a CPU draws random numbers one by one: 11% of a training step. Here one number in 64 bits
    serves four values: 3%. So p is rounded down to a multiple of 2^-16: 0.1 to 0.09999."""

    def forward(self, x):
        if not self.training or x.device.type != 'cpu':
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None)  # all 64 bits at random
        off = int(self.p * 2 ** 16)  # of the 2^16 values that 16 bits have
        kept = (numbers.view(torch.int16)[:x.numel()] >= off - 2 ** 15).view_as(x)
        return x * (kept * (2 ** 16 / (2 ** 16 - off)))


class EncoderLayer(nn.Module):
    def __init__(self, config, d_ff):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(config.d_model), Attention(config)
        self.ffn_norm, self.ffn = nn.LayerNorm(config.d_model), FeedForward(config.d_model, d_ff)
        self.dropout = Dropout(config.dropout)

    def forward(self, x, src_mask, ffn_mask):
        """x (B, S, D); src_mask (B, 1, 1, S), true at real tokens; ffn_mask (B, 1, F). Returns (B, S, D)."""
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, *self.attention.keys_values(h), src_mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x), ffn_mask))


class DecoderLayer(nn.Module):
    def __init__(self, config, d_ff):
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(config.d_model), Attention(config)
        self.cross_norm, self.cross_attention = nn.LayerNorm(config.d_model), Attention(config)
        self.ffn_norm, self.ffn = nn.LayerNorm(config.d_model), FeedForward(config.d_model, d_ff)
        self.dropout = Dropout(config.dropout)

    def forward(self, x, cache, src_mask, ffn_mask):
        """x (B, T, D), the tokens after those in `cache`, to which theirs are added. Returns (B, T, D).

        In beam search x is (B*K, T, D): the K hypotheses of a sentence, one below the other.
        """
        h = self.self_norm(x)
        cache.append(*self.self_attention.keys_values(h))
        # Several tokens at once come with an empty cache, where each may see those up to itself; one alone may see all.
        x = x + self.dropout(self.self_attention(h, cache.keys, cache.values, causal=x.size(1) > 1))
        h = self.cross_norm(x)  # (B*K, T, D)
        if len(x) > len(cache.src_keys):  # hypotheses of one sentence see the same source, as if one after the other
            h = h.view(len(cache.src_keys), -1, x.size(-1))  # (B, K*T, D)
        h = self.cross_attention(h, cache.src_keys, cache.src_values, src_mask)  # (B, K*T, D)
        x = x + self.dropout(h.view_as(x))
        return x + self.dropout(self.ffn(self.ffn_norm(x), ffn_mask))


class LayerCache:
    """What one decoder layer remembers: keys and values of the source (computed once) and of the target so far.

    In beam search the target's have B*K rows, the source's still B: sentences share theirs among their K hypotheses.
    """

    def __init__(self, src_keys, src_values):
        self.src_keys, self.src_values = src_keys, src_values  # (B, H, S, D/H)
        self.keys, self.values = src_keys[:, :, :0], src_values[:, :, :0]  # (B, H, 0, D/H), to grow along T

    def append(self, keys, values):
        """Add the keys and values (B, H, T', D/H) of T' new tokens."""
        self.keys = torch.cat([self.keys, keys], dim=2)
        self.values = torch.cat([self.values, values], dim=2)

    def select(self, rows, sentences):
        """Keep these rows of the target's, in this order: hypotheses that go on; and these sentences of the source."""
        self.keys, self.values = self.keys[rows], self.values[rows]
        if len(sentences) < len(self.src_keys):  # seldom, and the source's are the larger
            self.src_keys, self.src_values = self.src_keys[sentences], self.src_values[sentences]


class Transformer(nn.Module):
    """One multilingual encoder-decoder; `masks` (N, L, F) says which FFN neurons each task has, at first all."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)  # source, target and output in one
        d_ff = config.d_ff if isinstance(config.d_ff, list) else [config.d_ff] * (2 * config.layers)
        self.encoder = nn.ModuleList(EncoderLayer(config, own) for own in d_ff[:config.layers])
        self.encoder_norm = nn.LayerNorm(config.d_model)
        self.decoder = nn.ModuleList(DecoderLayer(config, own) for own in d_ff[config.layers:])
        self.decoder_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.register_buffer('positions', sinusoids(config.max_len, config.d_model), persistent=False)
        self.register_buffer('masks', all_on(d_ff, config.n_tasks))
        nn.init.normal_(self.embedding.weight, std=config.d_model ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def ffns(self):
        """The L feed-forward networks, in the order of the masks."""
        return [layer.ffn for layer in (*self.encoder, *self.decoder)]

    def task_masks(self, task):
        """The FFN masks of sentences with tasks `task` (B,): L tensors (B, 1, F), one for each layer."""
        masks = self.masks[task].unsqueeze(2).unbind(1)  # (B, L, F) -> (B, L, 1, F) -> L x (B, 1, F)
        return [mask[..., :ffn.w1.out_features] for mask, ffn in zip(masks, self.ffns)]  # a slim layer is narrower

    @torch.no_grad()
    def slim(self, task):
        """A model of one task that holds this task's neurons alone: the same function up to rounding, and smaller.

        In it, the task has index 0, and every neuron is on.
        """
        slim = copy.deepcopy(self)
        kept = [mask.nonzero().flatten() for mask in self.masks[task]]  # L x (F_l,)
        for ffn, neurons in zip(slim.ffns, kept):
            ffn.w1.out_features = ffn.w2.in_features = len(neurons)
            ffn.w1.weight = nn.Parameter(ffn.w1.weight[neurons])  # (F_l, D)
            ffn.w1.bias = nn.Parameter(ffn.w1.bias[neurons])  # (F_l,)
            ffn.w2.weight = nn.Parameter(ffn.w2.weight[:, neurons])  # (D, F_l)
        slim.config = replace(self.config, n_tasks=1, d_ff=[len(neurons) for neurons in kept])
        slim.masks = all_on(slim.config.d_ff, 1).to(self.masks.device)
        return slim

    def embed(self, tokens, start=0):
        """Embed tokens (B, T) that stand at positions start, start + 1, ... Returns (B, T, D)."""
        x = self.embedding(tokens) * math.sqrt(self.config.d_model)  # (B, T, D)
        return self.dropout(x + self.positions[start:start + tokens.size(1)])

    def encode(self, src, task):
        """src (B, S), task (B,). Returns the encoder's output (B, S, D) and the mask of real tokens (B, 1, 1, S)."""
        src_mask = (src != PAD)[:, None, None, :]  # (B, 1, 1, S)
        x = self.embed(src)  # (B, S, D)
        for layer, ffn_mask in zip(self.encoder, self.task_masks(task)):
            x = layer(x, src_mask, ffn_mask)
        return self.encoder_norm(x), src_mask

    def new_cache(self, memory):
        """The decoder's caches, one a layer, before the first target token; memory (B, S, D)."""
        return [LayerCache(*layer.cross_attention.keys_values(memory)) for layer in self.decoder]

    def decode(self, tgt, task, cache, src_mask):
        """Run the decoder over tokens tgt (B, T) that follow those in `cache`. Returns its output (B, T, D)."""
        x = self.embed(tgt, start=cache[0].keys.size(2))  # (B, T, D)
        for layer, layer_cache, ffn_mask in zip(self.decoder, cache, self.task_masks(task)[self.config.layers:]):
            x = layer(x, layer_cache, src_mask, ffn_mask)
        return self.decoder_norm(x)

    def project(self, x):
        """Scores over the vocabulary for x (..., D): (..., V)."""
        return nn.functional.linear(x, self.embedding.weight)

    def forward(self, src, tgt, task):
        """The decoder's output (n, D) at the n tokens of tgt[:, 1:] that are not PAD, each given those before it.

        src (B, S) and tgt (B, T + 1) are rows <tag> pieces </s> PAD ..., task (B,) indexes `masks`. `project` makes
        scores of it. Padding is not projected at all: the vocabulary's product is the largest of the model.
        """
        memory, src_mask = self.encode(src, task)
        x = self.decode(tgt[:, :-1], task, self.new_cache(memory), src_mask)  # (B, T, D)
        return x[tgt[:, 1:] != PAD]  # (n, D)


def all_on(d_ff, n_tasks):
    """Masks (N, L, F) that are true at every neuron of layers with d_ff (L,) neurons; F is the widest layer's."""
    return (torch.arange(max(d_ff)) < torch.tensor(d_ff)[:, None]).repeat(n_tasks, 1, 1)  # (L, F) -> (N, L, F)


def sinusoids(length, d_model):
    """The fixed position encodings of the original Transformer, (length, d_model)."""
    position = torch.arange(length)[:, None]  # (length, 1)
    angle = position * torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))  # (length, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (length, D)
