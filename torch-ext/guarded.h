// How a function of the C face runs its body: an exception becomes a message that Rust owns.
#pragma once
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace te {

template <typename F>
int guarded(char** error, F body) {
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

}  // namespace te
