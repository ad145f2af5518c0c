"""Text to pieces and back: one SentencePiece vocabulary that all languages share."""
import io
import re

import sentencepiece

from minispec import UserError
from minispec.model import PAD

EOS = 2


class Vocabulary:
    """The SentencePiece model of all languages, with a tag for each of them."""

    def __init__(self, proto):
        self.proto = proto  # the serialized model, which checkpoints carry
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)

    @classmethod
    def train(cls, lines, size, languages):
        """Learn `size` pieces (BPE: the same text gives the same pieces) from lines of text."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=model, vocab_size=size, model_type='bpe',
                character_coverage=1.0, pad_id=PAD, unk_id=1, eos_id=EOS, bos_id=-1,
                control_symbols=[f'<{language}>' for language in languages], minloglevel=2)
        except RuntimeError as error:
            if largest := re.search(r'value <= (\d+)', str(error)):
                raise UserError(f'--vocab-size {size} is more than this text supports; the largest is {largest[1]}')
            if smallest := re.search(r'required_chars\. \d+ vs (\d+)', str(error)):
                raise UserError(f'--vocab-size {size} does not hold every character; the smallest is {smallest[1]}')
            reason = str(error).rpartition(']')[2].strip()  # its errors are: file(line) [condition] reason
            raise UserError(f'SentencePiece cannot learn {size} pieces from the training text: '
                            + (reason or 'all lines are empty, or longer than 4,192 bytes'))
        return cls(model.getvalue())

    def __len__(self):
        return len(self.pieces)

    def tag(self, language):
        return self.pieces.piece_to_id(f'<{language}>')

    def has_tag(self, language):
        return self.pieces.is_control(self.tag(language))

    def encode(self, lines):
        """Piece ids of each line, a list of lists, without tag and end of sentence."""
        return self.pieces.encode(lines)

    def decode(self, rows):
        """Text of each row of piece ids."""
        return self.pieces.decode(rows)
