#include "cuda.h"

#include "../guarded.h"

#include <nccl.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <dlfcn.h>

#include <cstdlib>

namespace {

// Time-outs and lost ranks are found by whoever waits for a collective (te_work_wait_until), who can say which rank is
// missing. c10d's own watchdog would end the process without that word. What the user has set stays.
void leave_errors_to_the_waiting() {
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 0);
  // no dump of c10d's flight recorder beside our message
  setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 0);
}

}  // namespace

extern "C" {

int tec_interface() { return TEC_INTERFACE; }

int tec_nccl_version(int* version, char** error) {
  return guarded(error, [&] {
    // libtorch_cuda has loaded it; our own link names it nowhere
    const auto ask = reinterpret_cast<ncclResult_t (*)(int*)>(dlsym(RTLD_DEFAULT, "ncclGetVersion"));
    TORCH_CHECK(ask != nullptr && ask(version) == ncclSuccess, "NCCL does not tell its version");
  });
}

int tec_nccl_open(void* store, int rank, int size, int device, int64_t timeout_ms, void** group, char** error) {
  return guarded(error, [&] {
    leave_errors_to_the_waiting();
    auto options = c10d::ProcessGroupNCCL::Options::create();
    // the watchdog's clock; ours is shorter and comes first
    options->timeout = std::chrono::milliseconds(4 * timeout_ms);
    const auto& shared = *static_cast<c10::intrusive_ptr<c10d::Store>*>(store);
    const c10::Device place(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    const c10::cuda::CUDAGuard guard(place);
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(shared, rank, size, options);
    nccl->setBoundDeviceId(place);
    nccl->eagerConnectSingleDevice(place);
    *group = new c10::intrusive_ptr<c10d::Backend>(std::move(nccl));
  });
}
}
