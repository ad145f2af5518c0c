"""The Transformer, with feed-forward networks (FFNs) in which each task has its own neurons (the paper's section 4).

A *task* is a translation direction, such as en-de. A *neuron* is a hidden unit of an FFN. Symbols, in all files:

    B  sentences in a batch      D  model width, d_model      N  tasks
    S  source length             F  FFN neurons, d_ff         L  FFN layers: the encoder's first, then the decoder's
    T  target length             H  attention heads           V  vocabulary size

(A module that serves encoder and decoder alike writes T for the length of either.)

Except for the masks, this is the pre-norm Transformer that is common in multilingual translation: one embedding table
for source, target and output, sinusoidal position encodings, ReLU in the FFNs.
"""
import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import nn

PAD, UNK, EOS = 0, 1, 2  # ids of every vocabulary: padding, never attended to or counted; unknown; end of sentence


@dataclass
class Config:
    """The shape of a model. A checkpoint carries it beside the weights."""
    vocab_size: int
    n_tasks: int
    d_model: int = 128
    d_ff: int = 256
    layers: int = 2  # in the encoder, and again in the decoder: L = 2 * layers
    heads: int = 4
    dropout: float = 0.1
    max_len: int = 256  # positions, the language tag and the end of sentence included


def target_mask(tgt):
    """Which of tgt[:, 1:] are tokens to predict, and not padding: tgt (B, T + 1) gives (B, T)."""
    return tgt[:, 1:] != PAD


class Attention(nn.Module):
    """Multi-head attention. The caller computes keys and values, so that decoding can cache them."""

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
        """Attend from x (B, T, D) to the keys. Returns (B, T, D).

        `mask` (B, 1, 1, S) is true where attention is allowed; `causal` hides later positions.
        """
        inputs = self.split_heads(self.query(x)), keys, values  # (B, H, T, D/H), (B, H, S, D/H) twice
        attend = nn.functional.scaled_dot_product_attention
        if not len(x):  # one of several processes may get no sentence, which a GPU's kernels refuse
            heads = inputs[0] @ inputs[1].mT @ inputs[2]  # (0, H, T, D/H)
        elif x.device.type == 'cpu' and keys.dtype == torch.bfloat16:  # its backward pass is ten times slower there
            with torch.autocast('cpu', enabled=False):
                heads = attend(*(each.float() for each in inputs), mask, is_causal=causal)  # (B, H, T, D/H)
        else:
            heads = attend(*inputs, mask, is_causal=causal)  # (B, H, T, D/H)
        return self.out(heads.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    """The masked network of Eq. 2 and 3: FFN_t(x) = (ReLU(x W1 + b1) * m_t) W2 + b2.

    A neuron with m_t = 0 is off for task t. Its output is exactly 0. So is the gradient that sentences of t send to its
    row of w1.weight, its entry of w1.bias and its column of w2.weight. (nn.Linear stores W1 and W2 transposed.)
    """

    def __init__(self, d_model, d_ff):
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff)
        self.relu = nn.ReLU()  # a module, so that `neurons.record` can hook its output
        self.w2 = nn.Linear(d_ff, d_model)

    def forward(self, x, mask):
        """x (B, T, D); mask (B, 1, F) holds m_t of each sentence's task. Returns (B, T, D)."""
        h = self.relu(self.w1(x))  # (B, T, F)
        return self.w2(h * mask)  # (B, T, D)


class Dropout(nn.Dropout):
    """nn.Dropout with cheaper random numbers on a CPU: one number of 64 bits serves four values.

    Dropout then takes 3% of a training step instead of 11%. p is rounded down to a multiple of 2^-16: 0.1 to 0.09999.
    """

    def forward(self, x):
        if not self.training or x.device.type != 'cpu':
            return super().forward(x)
        n = x.numel()
        numbers = torch.empty(-(-n // 4), dtype=torch.int64).random_(-2 ** 63, None)  # (n / 4,), all bits random
        dropped = int(self.p * 2 ** 16)  # how many of the 2^16 values of 16 bits mean: dropped
        kept = (numbers.view(torch.int16)[:n] >= dropped - 2 ** 15).view_as(x)  # (n,) -> the shape of x
        return x * (kept * (2 ** 16 / (2 ** 16 - dropped)))


class EncoderLayer(nn.Module):
    """Self-attention and FFN, each with a LayerNorm before it and a residual connection around it (pre-norm)."""

    def __init__(self, config):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(config.d_model), Attention(config)
        self.ffn_norm, self.ffn = nn.LayerNorm(config.d_model), FeedForward(config.d_model, config.d_ff)
        self.dropout = Dropout(config.dropout)

    def forward(self, x, src_mask, ffn_mask):
        """x (B, S, D); src_mask (B, 1, 1, S), true at real tokens; ffn_mask (B, 1, F). Returns (B, S, D)."""
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, *self.attention.keys_values(h), src_mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x), ffn_mask))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the source, and FFN (pre-norm)."""

    def __init__(self, config):
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(config.d_model), Attention(config)
        self.cross_norm, self.cross_attention = nn.LayerNorm(config.d_model), Attention(config)
        self.ffn_norm, self.ffn = nn.LayerNorm(config.d_model), FeedForward(config.d_model, config.d_ff)
        self.dropout = Dropout(config.dropout)

    def forward(self, x, cache, src_mask, ffn_mask):
        """x (B, T, D): the tokens after those in `cache`; their keys and values are added to it. Returns (B, T, D).

        T is 1, or `cache` is empty. In beam search x has B * beam rows, and the hypotheses of one sentence are
        consecutive. Masks: see EncoderLayer.
        """
        h = self.self_norm(x)
        cache.append(*self.self_attention.keys_values(h))
        # Training passes all tokens with an empty cache and needs a causal mask. Decoding passes one token, which may
        # attend to the whole cache.
        x = x + self.dropout(self.self_attention(h, cache.keys, cache.values, causal=x.size(1) > 1))
        h = self.cross_norm(x)  # (B * beam, T, D)
        if len(x) > len(cache.src_keys):  # all hypotheses of a sentence read the same source: put them into one row
            h = h.view(len(cache.src_keys), -1, x.size(-1))  # (B, beam * T, D)
        h = self.cross_attention(h, cache.src_keys, cache.src_values, src_mask)  # (B, beam * T, D)
        x = x + self.dropout(h.view_as(x))  # (B * beam, T, D)
        return x + self.dropout(self.ffn(self.ffn_norm(x), ffn_mask))


class LayerCache:
    """Keys and values of one decoder layer: of the source, computed once, and of the target so far.

    In beam search the target's have B * beam rows. The source's have B: the hypotheses of a sentence share them.
    """

    def __init__(self, src_keys, src_values):
        self.src_keys, self.src_values = src_keys, src_values  # (B, H, S, D/H)
        self.keys, self.values = src_keys[:, :, :0], src_values[:, :, :0]  # (B, H, 0, D/H), to grow along T

    def append(self, keys, values):
        """Add the keys and values (B, H, T', D/H) of T' new tokens."""
        self.keys = torch.cat([self.keys, keys], dim=2)  # (B, H, T + T', D/H)
        self.values = torch.cat([self.values, values], dim=2)  # (B, H, T + T', D/H)

    def select(self, rows, sentences):
        """Take these `rows` (n,) of the target, some more than once, and keep these `sentences` (B',), in order."""
        self.keys, self.values = self.keys[rows], self.values[rows]  # (n, H, T, D/H) each
        if len(sentences) < len(self.src_keys):  # else there is nothing to drop, and a copy is slow
            self.src_keys, self.src_values = self.src_keys[sentences], self.src_values[sentences]  # (B', H, S, D/H)


class Transformer(nn.Module):
    """One multilingual encoder-decoder. `masks` (N, L, F) says which FFN neurons each task has: at first, all."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)  # source, target and output in one
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.encoder_norm = nn.LayerNorm(config.d_model)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.decoder_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.register_buffer('positions', sinusoids(config.max_len, config.d_model), persistent=False)
        self.register_buffer('masks', torch.ones(config.n_tasks, 2 * config.layers, config.d_ff, dtype=torch.bool))
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
        return [mask[..., :ffn.w1.out_features] for mask, ffn in zip(masks, self.ffns)]  # a narrowed FFN has fewer

    @torch.no_grad()
    def narrow(self, neurons):
        """Keep only these neurons, L tensors of indices (F_l,). One task is left, number 0, with all of them on."""
        for ffn, kept in zip(self.ffns, neurons):
            ffn.w1.out_features = ffn.w2.in_features = len(kept)
            ffn.w1.weight = nn.Parameter(ffn.w1.weight[kept])  # (F_l, D)
            ffn.w1.bias = nn.Parameter(ffn.w1.bias[kept])  # (F_l,)
            ffn.w2.weight = nn.Parameter(ffn.w2.weight[:, kept])  # (D, F_l)
        self.config = replace(self.config, n_tasks=1)
        self.masks = torch.zeros_like(self.masks[:1])  # (1, L, F)
        for layer, ffn in enumerate(self.ffns):
            self.masks[0, layer, :ffn.w1.out_features] = True

    def sub_network(self, task):
        """A smaller model of this task alone, with its neurons and no others: the same function up to rounding."""
        extracted = copy.deepcopy(self)
        extracted.narrow([mask.nonzero().flatten() for mask in self.masks[task]])  # L x (F_l,)
        return extracted

    def embed(self, tokens, start=0):
        """Embed tokens (B, T) at positions start, start + 1, ... Returns (B, T, D)."""
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
        """The caches of all decoder layers, before the first target token; memory (B, S, D) is the encoder's output."""
        return [LayerCache(*layer.cross_attention.keys_values(memory)) for layer in self.decoder]

    def decode(self, tgt, task, cache, src_mask):
        """Run the decoder over tokens tgt (B, T) that follow those in `cache`. Returns its output (B, T, D).

        T is 1, or `cache` is empty.
        """
        x = self.embed(tgt, start=cache[0].keys.size(2))  # (B, T, D)
        for layer, layer_cache, ffn_mask in zip(self.decoder, cache, self.task_masks(task)[self.config.layers:]):
            x = layer(x, layer_cache, src_mask, ffn_mask)
        return self.decoder_norm(x)

    def project(self, x):
        """Scores (logits) over the vocabulary for x (..., D): (..., V)."""
        return nn.functional.linear(x, self.embedding.weight)

    def forward(self, src, tgt, task):
        """The decoder's output (n, D) at the n tokens of tgt[:, 1:] that are not PAD, each predicted from those before.

        src (B, S) and tgt (B, T + 1) are rows as `data.py` lays them out, task (B,) indexes `masks`. `project` turns
        the output into scores. Padding is left out, because `project` is the largest matrix product of all.
        """
        memory, src_mask = self.encode(src, task)
        x = self.decode(tgt[:, :-1], task, self.new_cache(memory), src_mask)  # (B, T, D)
        return x[target_mask(tgt)]  # (n, D)


def sinusoids(length, d_model):
    """The fixed position encodings of the original Transformer (Vaswani et al. 2017, section 3.5): (length, D)."""
    position = torch.arange(length)[:, None]  # (length, 1)
    angle = position * torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))  # (length, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (length, D)
