// The C face of decode_kernels.cpp, in the manner of shim.h. R rows, contiguous CPU tensors of f32 or bf16 ("T").
#pragma once
#include <cstdint>

extern "C" {
// residual (R, H) f32 += delta (R, H) T or null; out (R, H) T = rms_norm(residual) * gain (H) T
int te_add_norm(void* residual, void* delta, void* gain, double eps, void* out, char** error);

// qkv (R, (N + 2 K) D) T; keys and values (slots, K, capacity, D) T; slots, positions (R) and table (R, capacity);
// cosines, sines (capacity, D / 2) f32; out (R, N D) T
int te_cached_attention(void* qkv, void* keys, void* values, const int32_t* slots, const int32_t* positions,
                        const int32_t* table, int64_t rows, int64_t heads, void* cosines, void* sines, void* out,
                        char** error);

// logits (R, V) T; states (R, H) f32 and head (V, H) T, used for bf16 alone; tokens, log_probs (R, keep)
int te_pick(void* logits, void* states, void* head, int64_t keep, int64_t spare, int64_t* tokens, float* log_probs,
            char** error);

// weight (out, in) in oneDNN's own layout for about `rows` rows, and x (R, in) times it plus bias or null
int te_pack_linear(void* weight, int64_t rows, void** out, char** error);
int te_packed_linear(void* x, void* packed, void* bias, void** out, char** error);
}
