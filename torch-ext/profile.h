// The C face of profile.cpp, in the manner of shim.h.
#pragma once
#include <cstdint>

extern "C" {
// name, whether on a GPU, thread or stream, begin and length in nanoseconds
typedef void (*te_profile_event)(void* owner, const char* name, int on_device, uint64_t lane, uint64_t begin,
                                 uint64_t length);

int te_profile_begin(int cuda, char** error);

// Ends it: every event goes to `see`, and all of them into a trace file where `trace` names one.
int te_profile_end(const char* trace, te_profile_event see, void* owner, char** error);
}
