// What needs libtorch_cuda, for Rust: NCCL's process group, CUDA graphs and kernels. A shared object of its own, embedded in the
// program and opened where libtorch_cuda is (object.rs). Functions return 0 or leave a message in `error` (free it with
// te_free of the main shim).
#pragma once

#include <cstdint>

#define TEC_EXPORT __attribute__((visibility("default")))

extern "C" {

// Raised with every change of the functions below, so that a library of another build is not called.
#define TEC_INTERFACE 2
TEC_EXPORT int tec_interface();
// Of the NCCL that libtorch_cuda has loaded, as a number: 10000 * major + 100 * minor + patch.
TEC_EXPORT int tec_nccl_version(int* version, char** error);
TEC_EXPORT int tec_device_count(int* count, char** error);
// The device that this thread's work without a device of its own goes to.
TEC_EXPORT int tec_set_device(int device, char** error);
// Waits for what was queued on the current stream.
TEC_EXPORT int tec_synchronize(int device, char** error);

// A group of `size` processes, one GPU each; a handle for the functions of c10d.h. Communicators are made here, so all
// ranks must come. `store` is a handle of te_store_open.
TEC_EXPORT int tec_nccl_open(void* store, int rank, int size, int device, int64_t timeout_ms, void** group,
                             char** error);

// Begins a capture: until tec_graph_end, what this thread queues on the device is recorded, not run.
TEC_EXPORT int tec_graph_begin(int device, void** graph, char** error);
// Ends it and makes the graph; on an error too the thread's stream is as before.
TEC_EXPORT int tec_graph_end(void* graph, char** error);
// Runs the graph on the current stream.
TEC_EXPORT int tec_graph_replay(void* graph, char** error);
// Frees the graph and its memory, also in the middle of a capture.
TEC_EXPORT void tec_graph_close(void* graph);

// Takes the kernels of kernels.cu as PTX, text with a nul at its end, for the functions below.
TEC_EXPORT int tec_load_kernels(const char* ptx, char** error);
// A new tensor, recorded for autograd: silu(gate) * up of (..., 2 F), gate before up.
TEC_EXPORT int tec_swiglu(void* x, void** y, char** error);
// Three new tensors (B, T, heads, D), recorded for autograd: of (B, T, (N + 2 K) D) queries and keys turned by the angles
// whose cos and sin, f32 (T, D / 2), are given, and values.
TEC_EXPORT int tec_turn(void* qkv, void* cos, void* sin, int64_t heads, int64_t kv_heads, void** q, void** k, void** v,
                        char** error);
}
