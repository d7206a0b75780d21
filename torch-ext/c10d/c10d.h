// Process groups of libtorch's c10d, for Rust. Functions return 0 or leave a message in `error` (free it with te_free).
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

// A TCPStore client at host:port, and its server too where `serve`; keys get `prefix`. 0 as port lets the server choose.
int te_store_open(const char* host, uint16_t port, int serve, const char* prefix, int64_t timeout_ms, void** store,
                  uint16_t* bound_port, char** error);
// Another connection to the same store.
int te_store_clone(void* store, void** copy, char** error);
void te_store_close(void* store);
int te_store_set(void* store, const char* key, const uint8_t* data, size_t length, char** error);
// Waits up to the store's time-out. The bytes are given to `take` before the function returns.
int te_store_get(void* store, const char* key, void (*take)(void*, const uint8_t*, size_t), void* context, char** error);
int te_store_check(void* store, const char* key, int* there, char** error);
// Sets a key that is not set; leaves one that is.
int te_store_set_first(void* store, const char* key, const uint8_t* data, size_t length, char** error);

// Gloo over `interface_name` or `host_name` (either may be null), else over the address of this machine's name.
int te_gloo_open(void* store, int rank, int size, const char* interface_name, const char* host_name, int64_t timeout_ms,
                 void** group, char** error);
void te_group_close(void* group);
// Gives up the connections of a group whose collectives are all over.
int te_group_abort(void* group, char** error);
// In place. `reduce` is 0 for the sum, 1 for the maximum, 2 for the minimum. The work must be waited for.
int te_all_reduce(void* group, void* tensor, int reduce, void** work, char** error);
int te_broadcast(void* group, void* tensor, int from, void** work, char** error);
// `all` is contiguous and holds `size` times as many elements as `own`, by rank.
int te_all_gather(void* group, void* all, void* own, void** work, char** error);
int te_barrier(void* group, void** work, char** error);
int te_work_wait(void* work, char** error);
// As te_work_wait, from the CPU and at most so long: NCCL's own wait is one of the GPU, without an end.
int te_work_wait_until(void* work, int64_t timeout_ms, char** error);
// Whether a work is over, well or not, before so long has passed. Where `polls`, without the work's own wait, which for
// NCCL is one of the GPU.
int te_work_over_within(void* work, int64_t timeout_ms, int polls, int* over, char** error);
void te_work_close(void* work);
}
