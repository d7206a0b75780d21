// What every file of the C++ side needs: exceptions as messages, tensors behind pointers.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstring>

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

inline const at::Tensor& tensor(void* pointer) { return *static_cast<const at::Tensor*>(pointer); }
