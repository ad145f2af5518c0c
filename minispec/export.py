"""Exports a direction's sub-network to CTranslate2, a small and fast library for inference."""
from pathlib import Path

import torch

from minispec import UserError
from minispec.files import make_folder, write
from minispec.model import EOS, PAD, UNK, sinusoids
from minispec.tasks import split_task

EXAMPLE = """import ctranslate2, sentencepiece
subwords = sentencepiece.SentencePieceProcessor('{folder}/subwords.model')
source = ['<{src}>', *subwords.encode('A sentence.', out_type=str), '</s>']
found = ctranslate2.Translator('{folder}').translate_batch([source], beam_size=5)
print(subwords.decode(found[0].hypotheses[0]))"""


def export(checkpoint, task, folder, quantization='int8'):
    """Write a Checkpoint of one task into a folder, for CTranslate2. Returns lines of Python that translate with it.

    `quantization` is CTranslate2's; None keeps float32. Raises UserError if CTranslate2 is not installed.
    """
    folder = Path(folder)
    try:
        from ctranslate2.specs import Activation, TransformerSpec
    except ImportError:
        raise UserError('--export needs CTranslate2: python -m pip install ctranslate2')
    model, vocabulary, (src, tgt) = checkpoint.model, checkpoint.vocabulary, split_task(task)
    config = model.config
    spec = TransformerSpec.from_config((config.layers, config.layers), config.heads, pre_norm=True,
                                       activation=Activation.RELU)
    embedding = array(model.embedding.weight)  # (V, D)
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = embedding
    for side, layers, norm in ((spec.encoder, model.encoder, model.encoder_norm),
                               (spec.decoder, model.decoder, model.decoder_norm)):
        side.position_encodings.encodings = array(sinusoids(config.max_len, config.d_model))  # (max_len, D)
        side.scale_embeddings = True
        copy_norm(side.layer_norm, norm)
        for target, layer in zip(side.layer, layers):
            copy_norm(target.ffn.layer_norm, layer.ffn_norm)
            copy_linear(target.ffn.linear_0, layer.ffn.w1)
            copy_linear(target.ffn.linear_1, layer.ffn.w2)
    for target, layer in zip(spec.encoder.layer, model.encoder):
        copy_attention(target.self_attention, layer.attention_norm, layer.attention, own=True)
    for target, layer in zip(spec.decoder.layer, model.decoder):
        copy_attention(target.self_attention, layer.self_norm, layer.self_attention, own=True)
        copy_attention(target.attention, layer.cross_norm, layer.cross_attention, own=False)
    tokens = [vocabulary.model.id_to_piece(index) for index in range(len(vocabulary))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = (tokens[i] for i in (PAD, EOS, UNK))
    spec.config.decoder_start_token, spec.config.add_source_eos = f'<{tgt}>', False
    spec.validate()
    spec.optimize(quantization)
    make_folder(folder)
    spec.save(str(folder))
    write(folder / 'subwords.model', vocabulary.proto)
    return EXAMPLE.format(folder=folder, src=src)


def array(tensor):
    return tensor.detach().cpu().clone().numpy()  # a copy: quantization works in place


def copy_norm(target, norm):
    target.gamma, target.beta = array(norm.weight), array(norm.bias)


def copy_linear(target, *layers):
    """One linear layer, from the rows of several."""
    target.weight = array(torch.cat([layer.weight for layer in layers]))
    target.bias = array(torch.cat([layer.bias for layer in layers]))


def copy_attention(target, norm, attention, own):
    """CTranslate2 has one matrix for queries, keys and values in self-attention (`own`), and two in cross-attention."""
    copy_norm(target.layer_norm, norm)
    groups = [[attention.query, attention.key_value]] if own else [[attention.query], [attention.key_value]]
    for linear, layers in zip(target.linear, [*groups, [attention.out]]):
        copy_linear(linear, *layers)
