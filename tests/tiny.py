"""A tiny random language model, outliers planted where they belong, and a tokenizer learned from SENTENCES."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCAB = 300  # 256 bytes, the end mark, 43 merges
HIDDEN, BLOCKS, CONTEXT = 64, 2, 256
LOUD_CHANNEL, LOUD_GAIN = 7, 12.0  # of the activations, in every block
LARGE_WEIGHT = (3, 40, 1.5)  # row, column, value in the last down_proj, whose other weights stay below 0.3
SENTENCES = [
    "The lighthouse keeper climbed the stairs and lit the lamp before the storm came in.",
    "A model keeps its weights as numbers, and a number can be kept with fewer bits.",
    "for row in rows: print(row.name, row.value)",
    "Where did you put the key? I left it on the table, next to the letter.",
]


def tiny_llama() -> LlamaForCausalLM:
    """Random weights from a fixed seed; one loud activation channel in every block and one large weight."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for block in model.model.layers:
            block.input_layernorm.weight[LOUD_CHANNEL] = LOUD_GAIN
            block.post_attention_layernorm.weight[LOUD_CHANNEL] = LOUD_GAIN
        row, col, value = LARGE_WEIGHT
        model.model.layers[-1].mlp.down_proj.weight[row, col] = value
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE learned from SENTENCES: any text can be encoded; a text begins with the end mark, as bos."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )
