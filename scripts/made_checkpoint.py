#!/usr/bin/env python3
"""Writes a checkpoint of latent context in its published layout, of random weights.

The published models (an encoder of 0.6 and a decoder of 4 billion parameters, Qwen 3's shapes) are
not part of this project. One of their size tells what converting and running them takes:

    scripts/made_checkpoint.py made --encoder-layers 28 --decoder-layers 36
    palimpsest convert lclm made -o made-16x --type q8_0

Needs NumPy. Its vocabulary has as many tokens as theirs, and is made up too.
"""

import argparse
import json
import pathlib
import struct

import numpy

ENCODER = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16}
DECODER = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32}
COMMON = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
          "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960}
PLAIN = 151643  # tokens that stand for text
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(23)]
TAGS = ["<|memory_start|>", "<|memory_end|>", "<|memory|>"]
TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def layer_shapes(config, i):
    width, feed_forward = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    block = f"layers.{i}."
    return {block + "self_attn.q_proj.weight": (queries, width),
            block + "self_attn.k_proj.weight": (keys, width),
            block + "self_attn.v_proj.weight": (keys, width),
            block + "self_attn.o_proj.weight": (width, queries),
            block + "self_attn.q_norm.weight": (config["head_dim"],),
            block + "self_attn.k_norm.weight": (config["head_dim"],),
            block + "mlp.gate_proj.weight": (feed_forward, width),
            block + "mlp.up_proj.weight": (feed_forward, width),
            block + "mlp.down_proj.weight": (width, feed_forward),
            block + "input_layernorm.weight": (width,),
            block + "post_attention_layernorm.weight": (width,)}


def model_shapes(config):
    width = config["hidden_size"]
    shapes = {"embed_tokens.weight": (config["vocab_size"], width), "norm.weight": (width,)}
    for i in range(config["num_hidden_layers"]):
        shapes.update(layer_shapes(config, i))
    return shapes


def bf16(shape, random):
    """Norms of one, matrices that keep the size of what they multiply."""
    if len(shape) == 1:
        values = numpy.ones(shape, numpy.float32)
    else:
        values = random.standard_normal(shape, numpy.float32) * (0.5 / shape[1] ** 0.5)
    return (values.view(numpy.uint32) >> 16).astype(numpy.uint16)


def write_safetensors(path, shapes, random):
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            out.write(bf16(shape, random).tobytes())


def write_sharded(folder, shapes, random, most_bytes=2 << 30):
    shards, size = [{}], 0
    for name, shape in shapes.items():
        n = 2 * int(numpy.prod(shape))
        if shards[-1] and size + n > most_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += n
    names = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard, random)
        names.update(dict.fromkeys(shard, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def byte_spellings():
    """The characters that byte-level vocabularies write bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled, more = {}, 0
    for byte in range(256):
        if byte in plain:
            spelled[byte] = chr(byte)
        else:
            spelled[byte] = chr(256 + more)
            more += 1
    return [spelled[byte] for byte in range(256)]


def tokenizer(special):
    letters = byte_spellings()
    vocab = {text: i for i, text in enumerate(letters)}
    merges = []
    for left in letters + [a + b for a in letters for b in letters]:
        for right in letters:
            if len(vocab) == PLAIN:
                break
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append([left, right])
    added = [{"id": PLAIN + i, "content": text, "special": True}
             for i, text in enumerate(special)]
    split = {"type": "Split", "pattern": {"Regex": WORDS}}
    return {"model": {"type": "BPE", "vocab": vocab, "merges": merges}, "added_tokens": added,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}}


def write_model(folder, config, prefix, special, random):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(special)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                    "chat_template": TEMPLATE}))
    shapes = {prefix + name: shape for name, shape in model_shapes(config).items()}
    write_sharded(folder, shapes, random)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--encoder-layers", type=int, default=28)
    parser.add_argument("--decoder-layers", type=int, default=36)
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random = numpy.random.default_rng(args.seed)
    encoder = {**COMMON, **ENCODER, "num_hidden_layers": args.encoder_layers, "vocab_size": 151936}
    decoder = {**COMMON, **DECODER, "num_hidden_layers": args.decoder_layers, "vocab_size": 151936}
    write_model(args.folder / "encoder", encoder, "", SPECIAL, random)
    write_model(args.folder / "decoder", decoder, "model.", SPECIAL + TAGS, random)
    (args.folder / "adapter").mkdir(exist_ok=True)
    narrow, wide = ENCODER["hidden_size"], DECODER["hidden_size"]
    write_safetensors(args.folder / "adapter" / "adapter.safetensors",
                      {"norm.weight": (narrow,), "fc1.weight": (wide, narrow), "fc1.bias": (wide,),
                       "fc2.weight": (wide, wide), "fc2.bias": (wide,)}, random)
    (args.folder / "model_config.json").write_text(json.dumps(
        {"compression_ratio": args.ratio, "encoder_window_size": 1024, "pooling": "mean",
         "encoder_mask_type": "causal", "boundary_overlap": 0, "adapter_type": "mlp"}))


if __name__ == "__main__":
    main()
