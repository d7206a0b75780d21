// What the kernels of kernels.cu are given; whoever launches them says the same.
#pragma once

// y = silu(gate) * up over rows of `width`, gate before up in x. A block a row; its threads go along it.
struct SwigluForward {
  const void* x;  // (rows, 2 width)
  void* y;        // (rows, width)
  long long width;
};

struct SwigluBackward {
  const void* x;   // (rows, 2 width)
  const void* dy;  // (rows, width)
  void* dx;        // (rows, 2 width)
  long long width;
};

// Heads of queries, keys or values, (texts, length, heads, head_dim), by strides in numbers; those of a head lie together.
struct Heads {
  void* data;
  long long text, position, head;
};

// Queries and keys turned by the angles of their positions, values as they are; backwards, gradients turned back. A block
// a position of a text; its threads go over all its heads.
struct Turn {
  void* qkv;  // (texts, length, (heads + 2 kv_heads) head_dim): queries, keys, values
  Heads q, k, v;
  const float *cos, *sin;  // (length, head_dim / 2)
  int length, heads, kv_heads, head_dim;
};
