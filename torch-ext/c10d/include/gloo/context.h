// Gloo's own headers are not part of libtorch's packages. These declarations are all that
// `torch/csrc/distributed/c10d/ProcessGroupGloo.hpp` needs of them; Gloo itself lies in libtorch_cpu.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
