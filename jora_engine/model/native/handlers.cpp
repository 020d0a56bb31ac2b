// What XLA calls: the kernels behind its foreign function interface, on its threads. bfloat16 comes as bits.

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "reply.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using namespace raft;

// item(0) … item(count - 1), by this thread and those of the pool that are free. This thread takes items until none is
// left and then waits for those that others have begun, so a pool whose threads all wait like this still ends.
void parallel(ffi::ThreadPool& pool, int64_t count, const std::function<void(int64_t)>& item) {
  struct Work {
    std::atomic<int64_t> next{0}, left;
    std::mutex mutex;
    std::condition_variable done;
  };
  const int64_t threads = std::min<int64_t>(pool.num_threads(), count);
  auto work = std::make_shared<Work>();
  work->left = count;
  const auto take = [work, count, &item] {  // a thread that comes too late finds nothing and touches no item
    for (int64_t i; (i = work->next.fetch_add(1)) < count;) {
      item(i);
      if (work->left.fetch_sub(1) == 1) {
        std::lock_guard<std::mutex> lock(work->mutex);
        work->done.notify_all();
      }
    }
  };
  for (int64_t t = 1; t < threads; ++t) pool.Schedule(std::function<void()>(take));
  take();
  std::unique_lock<std::mutex> lock(work->mutex);
  work->done.wait(lock, [&] { return work->left == 0; });
}

template <class F>
ffi::Error by_type(ffi::AnyBuffer x, F&& function) {
#ifdef __AVX512BF16__
  if (x.element_type() == ffi::U16) return function(BF16()), ffi::Error::Success();
#endif
  if (x.element_type() == ffi::F32) return function(F32()), ffi::Error::Success();
  return ffi::Error::InvalidArgument("float32, or bfloat16 as bits where the processor multiplies it");
}

template <class T, class B>
typename T::Element* data(B& buffer) {
  return static_cast<typename T::Element*>(buffer.untyped_data());
}

Shape shape_of(ffi::AnyBuffer q, ffi::AnyBuffer k, float scale, float cap) {
  const auto a = q.dimensions(), c = k.dimensions();
  return {a[0], a[1], a[2], a[3], c[1], c[2], scale, cap};
}

ffi::Error attention_forward(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                             ffi::Buffer<ffi::S32> first, ffi::Buffer<ffi::S32> offset, ffi::Result<ffi::AnyBuffer> out,
                             ffi::Result<ffi::Buffer<ffi::F32>> lse, float scale, float cap) {
  const Shape s = shape_of(q, k, scale, cap);
  return by_type(q, [&](auto type) {
    using T = decltype(type);
    parallel(pool, s.batch * s.kv_heads, [&](int64_t i) {
      const int64_t b = i / s.kv_heads, kv = i % s.kv_heads, row = b * s.keys * s.kv_heads * s.depth;
      const Sequence<T> source{data<T>(k) + row, data<T>(v) + row};
      forward<T>(s, b, kv, kv * s.group(), (kv + 1) * s.group(), data<T>(q), source, first.typed_data(),
                 *offset.typed_data(), data<T>(*out), lse->typed_data());
    });
  });
}

// A part of one row's prompt, q `[1, queries, heads, depth]`, over the row's cache: pairs of keys and values, see Columns.
ffi::Error attention_cached(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::Buffer<ffi::S32> first, ffi::Buffer<ffi::S32> row,
                            ffi::Buffer<ffi::S32> offset, ffi::RemainingArgs cache, ffi::Result<ffi::AnyBuffer> out,
                            float scale, float cap) {
  const auto a = q.dimensions();
  const int64_t depth = a[3], at = *row.typed_data(), end = *offset.typed_data() + a[1];
  int64_t columns = 0, kv_heads = 0;
  for (size_t i = 0; i + 1 < cache.size(); i += 2) {
    const auto k = *cache.get<ffi::AnyBuffer>(i);
    if (k.element_type() != q.element_type() || k.dimensions()[3] % BK)
      return ffi::Error::InvalidArgument("a cache of q's type in whole blocks");
    kv_heads = k.dimensions()[1];
    columns += k.dimensions()[3];
  }
  if (end > columns) return ffi::Error::InvalidArgument("the cache has fewer columns than the prompt");
  const Shape s{1, a[1], a[2], depth, end, kv_heads, scale, cap};
  return by_type(q, [&](auto type) {
    using T = decltype(type);
    Columns<T> source;
    for (size_t i = 0; i + 1 < cache.size(); i += 2) {
      const auto k = *cache.get<ffi::AnyBuffer>(i), v = *cache.get<ffi::AnyBuffer>(i + 1);
      const int64_t wide = k.dimensions()[3], begin = at * kv_heads * depth * wide;
      source.pieces.push_back({data<T>(k) + begin, data<T>(v) + begin, wide});
    }
    // each head by itself: one row has fewer KV heads than there are threads
    parallel(pool, s.heads, [&](int64_t h) {
      forward<T>(s, 0, h / s.group(), h, h + 1, data<T>(q), source, first.typed_data(), *offset.typed_data(),
                 data<T>(*out), nullptr);
    });
  });
}

ffi::Error attention_backward(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                              ffi::Buffer<ffi::S32> first, ffi::Buffer<ffi::S32> offset, ffi::AnyBuffer out,
                              ffi::Buffer<ffi::F32> lse, ffi::AnyBuffer g, ffi::Result<ffi::AnyBuffer> dq,
                              ffi::Result<ffi::AnyBuffer> dk, ffi::Result<ffi::AnyBuffer> dv, float scale, float cap) {
  const Shape s = shape_of(q, k, scale, cap);
  return by_type(q, [&](auto type) {
    using T = decltype(type);
    parallel(pool, s.batch * s.kv_heads, [&](int64_t i) {
      backward<T>(s, i / s.kv_heads, i % s.kv_heads, data<T>(q), data<T>(k), data<T>(v), first.typed_data(),
                  *offset.typed_data(), data<T>(out), lse.typed_data(), data<T>(g), data<T>(*dq), data<T>(*dk),
                  data<T>(*dv));
    });
  });
}

// One new token of every row, q `[rows, heads, depth]`, over the segments of the cache up to the row's `start`, which is
// -1 for a row that is not decoded and gets zeros, and over `fresh` columns of the last pair, the tokens since.
ffi::Error attention_reply(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::S32> start,
                           ffi::Buffer<ffi::S32> fresh, ffi::RemainingArgs cache, ffi::Result<ffi::Buffer<ffi::F32>> out,
                           float scale, float cap, int64_t window) {
  const auto a = q.dimensions();
  const int64_t heads = a[1], depth = a[2], since = *fresh.typed_data();
  const int64_t kv_heads = cache.get<ffi::AnyBuffer>(0)->dimensions()[1], group = heads / kv_heads;
  return by_type(*cache.get<ffi::AnyBuffer>(0), [&](auto type) {
    using T = decltype(type);
    parallel(pool, a[0] * kv_heads, [&](int64_t item) {
      const int64_t row = item / kv_heads, kv = item % kv_heads, at = (row * heads + kv * group) * depth;
      const int64_t before = start.typed_data()[row], low = window > 0 ? before + since - window : 0;
      float* place = out->typed_data() + at;
      if (before < 0) return std::fill(place, place + group * depth, 0.0f), void();
      std::vector<Stretch<T>> seen;
      int64_t base = 0;
      for (size_t i = 0; i + 1 < cache.size(); i += 2) {
        const auto k = *cache.get<ffi::AnyBuffer>(i), v = *cache.get<ffi::AnyBuffer>(i + 1);
        const bool last = i + 2 == cache.size();
        if (last) base = before;
        const int64_t width = k.dimensions()[3], begin = (row * kv_heads + kv) * depth * width;
        const int64_t first = std::clamp<int64_t>(low - base, 0, width);
        const int64_t end = std::clamp<int64_t>((last ? before + since : before) - base, 0, width);
        if (first < end) seen.push_back({data<T>(k) + begin, data<T>(v) + begin, width, first, end});
        base += width;
      }
      reply<T>(q.typed_data() + at, seen, group, depth, scale, cap, place);
    });
  });
}

constexpr int64_t PIECE = 1 << 18;  // elements that one thread takes of an elementwise function

ffi::Error swiglu_forward(ffi::ThreadPool pool, ffi::AnyBuffer gate, ffi::AnyBuffer up,
                          ffi::Result<ffi::AnyBuffer> out) {
  const int64_t count = gate.element_count();
  return by_type(gate, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (count + PIECE - 1) / PIECE, [&](int64_t i) {
      const int64_t at = i * PIECE;
      swiglu<T>(std::min(PIECE, count - at), data<T>(gate) + at, data<T>(up) + at, data<T>(*out) + at);
    });
  });
}

ffi::Error swiglu_gradient(ffi::ThreadPool pool, ffi::AnyBuffer gate, ffi::AnyBuffer up, ffi::AnyBuffer g,
                           ffi::Result<ffi::AnyBuffer> d_gate, ffi::Result<ffi::AnyBuffer> d_up) {
  const int64_t count = gate.element_count();
  return by_type(gate, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (count + PIECE - 1) / PIECE, [&](int64_t i) {
      const int64_t at = i * PIECE;
      swiglu_backward<T>(std::min(PIECE, count - at), data<T>(gate) + at, data<T>(up) + at, data<T>(g) + at,
                         data<T>(*d_gate) + at, data<T>(*d_up) + at);
    });
  });
}

ffi::Error norm_forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer weight, ffi::Result<ffi::AnyBuffer> out,
                        float eps) {
  const int64_t width = weight.element_count(), rows = x.element_count() / width, piece = PIECE / width + 1;
  return by_type(x, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (rows + piece - 1) / piece, [&](int64_t i) {
      const int64_t row = i * piece, at = row * width;
      rms_norm<T>(std::min(piece, rows - row), width, eps, data<T>(x) + at, data<T>(weight), data<T>(*out) + at);
    });
  });
}

ffi::Error norm_gradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer weight, ffi::AnyBuffer g,
                         ffi::Result<ffi::AnyBuffer> dx, float eps) {
  const int64_t width = weight.element_count(), rows = x.element_count() / width, piece = PIECE / width + 1;
  return by_type(x, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (rows + piece - 1) / piece, [&](int64_t i) {
      const int64_t row = i * piece, at = row * width;
      rms_norm_backward<T>(std::min(piece, rows - row), width, eps, data<T>(x) + at, data<T>(weight), data<T>(g) + at,
                           data<T>(*dx) + at);
    });
  });
}

// out [rows, width] = sum of products of pairs: left [rows, depth], right [depth, width] or [width, depth]
ffi::Error linear(ffi::ThreadPool pool, ffi::RemainingArgs arguments, ffi::Result<ffi::AnyBuffer> out,
                  bool by_columns) {
  const int64_t width = out->dimensions().back(), rows = out->element_count() / width;
  return by_type(*out, [&](auto type) {
    using T = decltype(type);
    std::vector<Factor<T>> factors;
    for (size_t i = 0; i + 1 < arguments.size(); i += 2) {
      auto left = *arguments.get<ffi::AnyBuffer>(i), right = *arguments.get<ffi::AnyBuffer>(i + 1);
      factors.push_back({data<T>(left), data<T>(right), left.dimensions().back(), by_columns});
    }
    parallel(pool, panels(width), [&](int64_t p) { linear_panel<T>(factors, rows, width, p, data<T>(*out)); });
  });
}

using Pool = ffi::ThreadPool;
using Array = ffi::AnyBuffer;
using Numbers = ffi::Buffer<ffi::S32>;
using Floats = ffi::Buffer<ffi::F32>;

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_attention_forward, attention_forward,
                              ffi::Ffi::Bind()
                                  .Ctx<Pool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .Ret<Array>()
                                  .Ret<Floats>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_attention_cached, attention_cached,
                              ffi::Ffi::Bind()
                                  .Ctx<Pool>()
                                  .Arg<Array>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_attention_reply, attention_reply,
                              ffi::Ffi::Bind()
                                  .Ctx<Pool>()
                                  .Arg<Floats>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .RemainingArgs()
                                  .Ret<Floats>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap")
                                  .Attr<int64_t>("window"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_attention_backward, attention_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<Pool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Numbers>()
                                  .Arg<Numbers>()
                                  .Arg<Array>()
                                  .Arg<Floats>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_swiglu_forward, swiglu_forward,
                              ffi::Ffi::Bind().Ctx<Pool>().Arg<Array>().Arg<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    raft_swiglu_backward, swiglu_gradient,
    ffi::Ffi::Bind().Ctx<Pool>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_norm_forward, norm_forward,
                              ffi::Ffi::Bind().Ctx<Pool>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    raft_norm_backward, norm_gradient,
    ffi::Ffi::Bind().Ctx<Pool>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(raft_linear, linear,
                              ffi::Ffi::Bind().Ctx<Pool>().RemainingArgs().Ret<Array>().Attr<bool>("by_columns"));
