#include "c10d.h"
#include "../guarded.h"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdlib>
#include <mutex>
#include <thread>

namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
// every backend, so that the functions below serve NCCL too
using Group = c10::intrusive_ptr<c10d::Backend>;
using Work = c10::intrusive_ptr<c10d::Work>;

template <typename T>
T& at_handle(void* handle) {
  return *static_cast<T*>(handle);
}

template <typename T>
void give(void** out, T value) {
  *out = new T(std::move(value));
}

std::chrono::milliseconds milliseconds(int64_t count) { return std::chrono::milliseconds(count); }

c10d::ReduceOp reduction(int number) {
  constexpr c10d::ReduceOp::RedOpType types[] = {c10d::ReduceOp::SUM, c10d::ReduceOp::MAX, c10d::ReduceOp::MIN};
  TORCH_CHECK(number >= 0 && number < 3, "there is no reduction ", number);
  return types[number];
}

// c10d tells of every lost connection in pages of frames; the errors that follow name the rank
void only_errors() {
  c10::initLogging();
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
    FLAGS_caffe2_log_level = c10::GLOG_ERROR;
  }
}

// c10d keeps the last 2000 collectives for a dump that nobody here asks for, in a table that groups of several threads
// fill without a lock (FlightRecorder::recordWithResetEnabled of libtorch 2.11): ranks that are threads have been seen to
// turn in it for ever. What the user has set stays.
void no_flight_recorder() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("TORCH_FR_BUFFER_SIZE", "0", 0); });
}

}  // namespace

extern "C" {

int te_store_open(const char* host, uint16_t port, int serve, const char* prefix, int64_t timeout_ms, void** store,
                  uint16_t* bound_port, char** error) {
  return guarded(error, [&] {
    only_errors();
    no_flight_recorder();
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto opened = c10::make_intrusive<c10d::TCPStore>(host, options);
    *bound_port = opened->getPort();
    give<Store>(store, c10::make_intrusive<c10d::PrefixStore>(prefix, opened));
  });
}

int te_store_clone(void* store, void** copy, char** error) {
  return guarded(error, [&] { give<Store>(copy, at_handle<Store>(store)->clone()); });
}

void te_store_close(void* store) { delete static_cast<Store*>(store); }

int te_store_set(void* store, const char* key, const uint8_t* data, size_t length, char** error) {
  return guarded(error, [&] { at_handle<Store>(store)->set(key, std::vector<uint8_t>(data, data + length)); });
}

int te_store_get(void* store, const char* key, void (*take)(void*, const uint8_t*, size_t), void* context,
                 char** error) {
  return guarded(error, [&] {
    auto value = at_handle<Store>(store)->get(key);
    take(context, value.data(), value.size());
  });
}

int te_store_check(void* store, const char* key, int* there, char** error) {
  return guarded(error, [&] { *there = at_handle<Store>(store)->check({key}) ? 1 : 0; });
}

int te_store_set_first(void* store, const char* key, const uint8_t* data, size_t length, char** error) {
  return guarded(error, [&] {
    // what is not set is expected as an empty value
    at_handle<Store>(store)->compareSet(key, {}, std::vector<uint8_t>(data, data + length));
  });
}

int te_gloo_open(void* store, int rank, int size, const char* interface_name, const char* host_name, int64_t timeout_ms,
                 void** group, char** error) {
  return guarded(error, [&] {
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(milliseconds(timeout_ms));
    options->devices.push_back(interface_name != nullptr ? Gloo::createDeviceForInterface(interface_name)
                               : host_name != nullptr    ? Gloo::createDeviceForHostname(host_name)
                                                         : Gloo::createDefaultDevice());
    give<Group>(group, c10::make_intrusive<Gloo>(at_handle<Store>(store), rank, size, options));
  });
}

void te_group_close(void* group) { delete static_cast<Group*>(group); }

int te_group_abort(void* group, char** error) {
  return guarded(error, [&] { at_handle<Group>(group)->abort(); });
}

int te_all_reduce(void* group, void* t, int reduce, void** work, char** error) {
  return guarded(error, [&] {
    c10d::AllreduceOptions options;
    options.reduceOp = reduction(reduce);
    std::vector<at::Tensor> tensors{tensor(t)};
    give<Work>(work, at_handle<Group>(group)->allreduce(tensors, options));
  });
}

int te_broadcast(void* group, void* t, int from, void** work, char** error) {
  return guarded(error, [&] {
    c10d::BroadcastOptions options;
    options.rootRank = from;
    std::vector<at::Tensor> tensors{tensor(t)};
    give<Work>(work, at_handle<Group>(group)->broadcast(tensors, options));
  });
}

int te_all_gather(void* group, void* all, void* own, void** work, char** error) {
  return guarded(error, [&] {
    // Gloo compares the shapes of the parts
    at::Tensor gathered = tensor(all).view({-1}), given = tensor(own).view({-1});
    give<Work>(work, at_handle<Group>(group)->_allgather_base(gathered, given));
  });
}

int te_barrier(void* group, void** work, char** error) {
  return guarded(error, [&] { give<Work>(work, at_handle<Group>(group)->barrier()); });
}

int te_work_wait(void* work, char** error) {
  return guarded(error, [&] { at_handle<Work>(work)->wait(); });
}

int te_work_over_within(void* handle, int64_t timeout_ms, int polls, int* over, char** error) {
  return guarded(error, [&] {
    auto& work = at_handle<Work>(handle);
    const auto end = std::chrono::steady_clock::now() + milliseconds(timeout_ms);
    if (polls == 0) {
      try {
        work->wait(milliseconds(timeout_ms));
      } catch (const std::exception&) {
        // its time is over, or it has failed, which the last wait will tell
      }
    } else {
      while (!work->isCompleted() && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
    *over = work->isCompleted() ? 1 : 0;
  });
}

int te_work_wait_until(void* handle, int64_t timeout_ms, char** error) {
  return guarded(error, [&] {
    auto& work = at_handle<Work>(handle);
    const auto end = std::chrono::steady_clock::now() + milliseconds(timeout_ms);
    while (!work->isCompleted()) {
      // a wait of a millisecond for what has had its time: it gives up the group and throws
      if (std::chrono::steady_clock::now() >= end) return void(work->wait(milliseconds(1)));
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    // throws what went wrong; on a GPU, lets the current stream come behind the collective
    work->wait();
  });
}

void te_work_close(void* work) { delete static_cast<Work*>(work); }
}
