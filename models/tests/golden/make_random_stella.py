"""Writes a folder of STELLA v5's exact shapes with random weights: for measuring speed and memory where the real weights
are not at hand. Its vectors mean nothing.

usage: make_random_stella.py --out FOLDER [--size 1.5b|400m] [--dtype f32|bf16|f16] [--seed N]
       needs numpy and tokenizers; one tensor at a time is in memory; 1.5b in f32 takes 6.2 GB on disk

The tokenizer is of the real one's kind, trained on the topics of Python's own help, so its vocabulary is small (9,134 with
Python 3.11) and a text has more tokens than under the real one: 1.9 a word of English captions. Count tokens, not texts.
Special tokens have the real ids.
"""

import argparse
import json
import pathlib
import pydoc_data.topics
import re
import struct
import tempfile
import time

import numpy
from tokenizers import Tokenizer

import stella
import tokenizer_kinds
from folders import write_folder

HEADS = (1024, 256)
BYTES = dict(f32=4, bf16=2, f16=2)
SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}


def numbers(rng, name, shape):
    """As a trained network's in scale: gains about 1, matrices and biases about 0.02, so that states stay of order 1."""
    x = rng.standard_normal(shape, dtype=numpy.float32)
    x *= 0.02
    if len(shape) == 1 and name.endswith("weight"):
        x += 1
    return x


def stored(x, dtype):
    if dtype == "f32":
        return x
    if dtype == "f16":
        return x.astype(numpy.float16)
    # rounded to the nearest, ties to even; there are no NaNs
    bits = x.view(numpy.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits >> 16).astype(numpy.uint16)


def write_weights(path, shapes, dtype, seed):
    """A safetensors file, tensor by tensor; returns how many numbers it holds."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + int(numpy.prod(shape)) * BYTES[dtype]
        header[name] = dict(dtype=dtype.upper(), shape=shape, data_offsets=[start, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = numpy.random.Generator(numpy.random.SFC64(seed))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            stored(numbers(rng, name, shape), dtype).tofile(file)
    return end // BYTES[dtype]


def english():
    """Running text, without the marks of tables and lists."""
    return [re.sub(r"\s+", " ", part) for topic in pydoc_data.topics.topics.values() for part in topic.split("\n\n")]


def qwen_tokenizer():
    tokenizer, config = tokenizer_kinds.qwen(english(), 30_000)
    described = json.loads(tokenizer.to_str())
    for token in described["added_tokens"]:
        token["id"] = SPECIAL[token["content"]]
    # ids need not be consecutive where they are the model's own
    described["model"]["vocab"] |= SPECIAL
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(described, file)
        file.flush()
        tokenizer = Tokenizer.from_file(file.name)
    assert all(tokenizer.token_to_id(token) == id for token, id in SPECIAL.items())
    return tokenizer, config


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--size", choices=["1.5b", "400m"], default="1.5b")
    parser.add_argument("--dtype", choices=list(BYTES), default="f32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    if args.size == "1.5b":
        tokenizer, config = qwen_tokenizer(), stella.config_1_5b(SPECIAL["<|endoftext|>"], **stella.SHAPE_1_5B)
        shapes = stella.tensors_1_5b(config)
    else:
        tokenizer, config = tokenizer_kinds.wordpiece(english(), 30_000), stella.config_400m(**stella.SHAPE_400M)
        shapes = stella.tensors_400m(config)
    config["torch_dtype"] = dict(f32="float32", bf16="bfloat16", f16="float16")[args.dtype]
    write_folder(args.out, tokenizer, config, "mean_tokens", HEADS, prompts=stella.PROMPTS)
    count = write_weights(args.out / "model.safetensors", shapes, args.dtype, args.seed)
    for dim in HEADS:
        head = {"linear.weight": (dim, config["hidden_size"]), "linear.bias": (dim,)}
        write_weights(args.out / f"2_Dense_{dim}/model.safetensors", head, "f32", args.seed + dim)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {count:,} numbers in {len(shapes)} tensors, {size:,} bytes, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
