#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace raft {

// Memory of a piece of work, kept by its thread for the next one; handed out in aligned parts. One at a time a thread.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (bytes > size_) {
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
      if (!memory_) std::abort();  // as XLA does where an array has no room
      size_ = bytes;
    }
    at_ = memory_.get();
  }
  template <class E>
  E* take(size_t count) {
    E* piece = reinterpret_cast<E*>(at_);
    at_ += (count * sizeof(E) + 63) / 64 * 64;
    return piece;
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  static inline thread_local std::unique_ptr<char, Free> memory_;
  static inline thread_local size_t size_ = 0;
  char* at_;
};

}  // namespace raft
