#!/usr/bin/env python3
"""Writes a GGUF model of a real shape with made-up weights, to measure how fast it runs.

    scripts/made_model.py SHAPE FILE

SHAPE is mamba2 (130M, as published), qwen35 (a small one of that form: Gated DeltaNet, every fourth
layer attends) or granitehybrid (350M, as published). Matrices are Q8_0. It answers nonsense.
"""

import pathlib
import random
import struct
import sys

U32, F32, BOOL, TEXT, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # types of keys
PLAIN, Q8_0 = 0, 8  # types of tensors
ALIGNMENT = 32


def key(name, kind, value):
    packed = {U32: "<I", F32: "<f", BOOL: "<?"}
    if kind == TEXT:
        body = struct.pack("<Q", len(value)) + value.encode()
    elif kind == ARRAY:
        body = struct.pack("<IQ", I32, len(value)) + struct.pack(f"<{len(value)}i", *value)
    else:
        body = struct.pack(packed[kind], value)
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + body


class Model:
    """Keys and tensors, written at once."""

    def __init__(self, architecture, width, layers, context, vocabulary):
        self.architecture, self.width = architecture, width
        self.keys, self.entries, self.data, self.size = [], [], [], 0
        self.random = random.Random(1)
        self.keys.append(key("general.architecture", TEXT, architecture))
        self.keys.append(key("general.name", TEXT, "made up"))
        self.keys.append(key("tokenizer.ggml.model", TEXT, "none"))
        for name, value in (("block_count", layers), ("embedding_length", width),
                            ("context_length", context), ("vocab_size", vocabulary)):
            self.set(name, value)
        self.set("attention.layer_norm_rms_epsilon", 1e-5)
        self.matrix("token_embd", width, vocabulary)
        self.vector("output_norm", width)

    def set(self, name, value):
        kinds = {bool: BOOL, int: U32, float: F32, list: ARRAY}
        self.keys.append(key(f"{self.architecture}.{name}", kinds[type(value)], value))

    def add(self, name, kind, shape, data):
        dims = struct.pack(f"<{len(shape)}Q", *shape)
        self.entries.append(struct.pack("<Q", len(name)) + name.encode() +
                            struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, self.size))
        data += bytes(-len(data) % ALIGNMENT)
        self.data.append(data)
        self.size += len(data)

    def matrix(self, name, n_in, n_out):
        blocks = n_in * n_out // 32
        scale = struct.pack("<e", (3 / n_in) ** 0.5 / 127)
        numbers = self.random.randbytes(32 * blocks)
        self.add(name + ".weight", Q8_0, (n_in, n_out),
                 b"".join(scale + numbers[i:i + 32] for i in range(0, 32 * blocks, 32)))

    def values(self, name, shape, low, high):
        count = 1
        for d in shape:
            count *= d
        numbers = [self.random.uniform(low, high) for _ in range(count)]
        self.add(name, PLAIN, shape, struct.pack(f"<{count}f", *numbers))

    def vector(self, name, n):
        self.values(name + ".weight", (n,), 0.8, 1.2)

    def feed_forward(self, block, norm, n):
        self.vector(block + norm, self.width)
        self.matrix(block + "ffn_gate", self.width, n)
        self.matrix(block + "ffn_up", self.width, n)
        self.matrix(block + "ffn_down", n, self.width)

    def attention(self, block, heads, kv_heads, size, is_gated):
        self.matrix(block + "attn_q", self.width, heads * size * (2 if is_gated else 1))
        self.matrix(block + "attn_k", self.width, kv_heads * size)
        self.matrix(block + "attn_v", self.width, kv_heads * size)
        self.matrix(block + "attn_output", heads * size, self.width)

    def states(self, inner, key_size, heads, groups):
        for name, value in (("conv_kernel", 4), ("inner_size", inner), ("state_size", key_size),
                            ("time_step_rank", heads), ("group_count", groups)):
            self.set("ssm." + name, value)
        self.inner, self.heads, self.groups = inner, heads, groups
        self.channels = inner + 2 * groups * key_size

    def recurrence(self, block, per_state):
        self.values(block + "ssm_conv1d.weight", (4, self.channels), -0.5, 0.5)
        self.values(block + "ssm_dt.bias", (self.heads,), -4, 0)
        self.values(block + "ssm_a", per_state, -2, -0.1)
        self.matrix(block + "ssm_out", self.inner, self.width)

    def mixer(self, block):
        self.matrix(block + "ssm_in", self.width, self.inner + self.channels + self.heads)
        self.recurrence(block, (1, self.heads))
        self.values(block + "ssm_conv1d.bias", (self.channels,), -0.1, 0.1)
        self.values(block + "ssm_d", (1, self.heads), 0.9, 1.1)
        self.values(block + "ssm_norm.weight", (self.inner // self.groups, self.groups), 0.8, 1.2)

    def delta_net(self, block):
        self.matrix(block + "attn_qkv", self.width, self.channels)
        self.matrix(block + "attn_gate", self.width, self.inner)
        self.matrix(block + "ssm_beta", self.width, self.heads)
        self.matrix(block + "ssm_alpha", self.width, self.heads)
        self.recurrence(block, (self.heads,))
        self.vector(block + "ssm_norm", self.inner // self.heads)

    def write(self, path):
        head = struct.pack("<IIQQ", 0x46554747, 3, len(self.entries), len(self.keys))
        head += b"".join(self.keys) + b"".join(self.entries)
        path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + b"".join(self.data))


def mamba2():
    m = Model("mamba2", 768, 24, 1 << 17, 50288)
    m.set("feed_forward_length", 0)
    m.set("attention.head_count", 0)
    m.states(1536, 128, 24, 1)
    for i in range(24):
        m.vector(f"blk.{i}.attn_norm", m.width)
        m.mixer(f"blk.{i}.")
    return m


def heads(m, count, kv_count, size):
    m.set("attention.head_count", count)
    m.set("attention.head_count_kv", kv_count)
    m.set("attention.key_length", size)
    m.set("attention.value_length", size)
    m.set("rope.dimension_count", size)


def qwen35():
    layers = 16
    m = Model("qwen35", 768, layers, 1 << 17, 50288)
    m.set("feed_forward_length", 2048)
    heads(m, 8, 2, 128)
    m.set("rope.dimension_sections", [22, 21, 21, 0])
    m.set("full_attention_interval", 4)
    m.states(1536, 128, 12, 6)
    for i in range(layers):
        block = f"blk.{i}."
        m.vector(block + "attn_norm", m.width)
        m.feed_forward(block, "post_attention_norm", 2048)
        if i % 4 < 3:
            m.delta_net(block)
            continue
        m.attention(block, 8, 2, 128, True)
        m.vector(block + "attn_q_norm", 128)
        m.vector(block + "attn_k_norm", 128)
    return m


def granitehybrid():
    layers, attending = 32, (10, 13, 17, 27)
    m = Model("granitehybrid", 768, layers, 1 << 17, 100352)
    m.set("feed_forward_length", 2048)
    heads(m, 12, [4 if i in attending else 0 for i in range(layers)], 64)
    m.set("rope.scaling.finetuned", False)
    for name, scale in (("embedding_scale", 12.0), ("residual_scale", 0.246),
                        ("attention.scale", 0.015625), ("logit_scale", 3.0)):
        m.set(name, scale)
    m.states(1536, 128, 48, 1)
    for i in range(layers):
        block = f"blk.{i}."
        m.vector(block + "attn_norm", m.width)
        if i in attending:
            m.attention(block, 12, 4, 64, False)
        else:
            m.mixer(block)
        m.feed_forward(block, "ffn_norm", 2048)
    return m


SHAPES = {"mamba2": mamba2, "qwen35": qwen35, "granitehybrid": granitehybrid}

if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
    sys.exit(__doc__)
SHAPES[sys.argv[1]]().write(pathlib.Path(sys.argv[2]))
