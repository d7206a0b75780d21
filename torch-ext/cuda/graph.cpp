#include "cuda.h"

#include "../guarded.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdlib>
#include <memory>
#include <optional>

namespace {

struct Graph {
  at::cuda::CUDAGraph graph;
  c10::DeviceIndex device;
  // the side stream that records, for as long as it does
  std::optional<c10::cuda::CUDAStreamGuard> recording;
};

Graph& graph_at(void* handle) { return *static_cast<Graph*>(handle); }

c10::DeviceIndex index_of(int device) { return static_cast<c10::DeviceIndex>(device); }

}  // namespace

extern "C" {

int tec_device_count(int* count, char** error) {
  return guarded(error, [&] { *count = c10::cuda::device_count_ensure_non_zero(); });
}

int tec_set_device(int device, char** error) {
  return guarded(error, [&] { c10::cuda::set_device(index_of(device)); });
}

int tec_synchronize(int device, char** error) {
  return guarded(error, [&] { c10::cuda::getCurrentCUDAStream(index_of(device)).synchronize(); });
}

int tec_graph_begin(int device, void** graph, char** error) {
  return guarded(error, [&] {
    const c10::cuda::CUDAGuard guard(index_of(device));
    // what the warm-up left in the queue of this stream must not be overtaken on the other
    c10::cuda::device_synchronize();
    auto made = std::make_unique<Graph>();
    made->device = index_of(device);
    made->recording.emplace(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index_of(device)));
    // other threads may go on with their own work meanwhile
    made->graph.capture_begin(/*pool=*/{0, 0}, cudaStreamCaptureModeThreadLocal);
    *graph = made.release();
  });
}

int tec_graph_end(void* graph, char** error) {
  return guarded(error, [&] {
    const c10::cuda::CUDAGuard guard(graph_at(graph).device);
    // a capture ends on the stream that it began on, and this one is left whether it ends well or not
    struct Leave {
      Graph& graph;
      ~Leave() { graph.recording.reset(); }
    } leave{graph_at(graph)};
    graph_at(graph).graph.capture_end();
  });
}

int tec_graph_replay(void* graph, char** error) {
  return guarded(error, [&] {
    const c10::cuda::CUDAGuard guard(graph_at(graph).device);
    graph_at(graph).graph.replay();
  });
}

void tec_graph_close(void* graph) {
  char* ignored = nullptr;
  if (graph_at(graph).recording && tec_graph_end(graph, &ignored) != 0) std::free(ignored);
  delete &graph_at(graph);
}
}
