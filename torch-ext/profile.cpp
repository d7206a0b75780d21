// libtorch's own profiler (Kineto): what ran, when and where.
#include "profile.h"
#include "guarded.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

int te_profile_begin(int cuda, char** error) {
  return guarded(error, [&] {
    std::set<ActivityType> activities{ActivityType::CPU};
    if (cuda) activities.insert(ActivityType::CUDA);
    const ProfilerConfig config(ProfilerState::KINETO);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  });
}

int te_profile_end(const char* trace, te_profile_event see, void* owner, char** error) {
  return guarded(error, [&] {
    const auto result = profiler::disableProfiler();
    for (const auto& event : result->events()) {
      const bool on_device = event.deviceType() != c10::DeviceType::CPU;
      const uint64_t lane = on_device ? static_cast<uint64_t>(event.deviceResourceId()) : event.startThreadId();
      see(owner, event.name().c_str(), on_device, lane, event.startNs(), event.durationNs());
    }
    if (trace) result->save(trace);
  });
}
