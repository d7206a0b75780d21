// What every function of the C face starts with.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <vector>

// Runs `body`; an exception becomes a message that Rust owns.
template <typename F>
inline int guarded(char** error, F body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = strdup(e.what());
  } catch (...) {
    *error = strdup("a C++ exception of unknown type");
  }
  return 1;
}

// The same for what takes time by itself: a profile shows it by the name of its caller.
template <typename F>
inline int recorded(char** error, F body, const char* name = __builtin_FUNCTION()) {
  return guarded(error, [&] {
    RECORD_FUNCTION(name, c10::ArrayRef<const c10::IValue>{});
    body();
  });
}

inline const at::Tensor& tensor(void* pointer) { return *static_cast<const at::Tensor*>(pointer); }

inline std::vector<at::Tensor> list(void* const* pointers, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(tensor(pointers[i]));
  return out;
}
