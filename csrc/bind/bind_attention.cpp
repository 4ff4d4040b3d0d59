// Attention as Python sees it: arrays on the CPU, all of one type, outputs among the arguments.
#include <type_traits>

#include "base/array.h"
#include "base/float16.h"
#include "base/limits.h"
#include "transformer/attention.h"
#include "transformer/decode.h"

namespace worldfast {
namespace {

using Object = const py::object&;

// Calls f with a value of the element type of q.
template <class F>
void with_element(const Array& q, F&& f) {
    if (q.holds<float>()) return f(float{});
    if (q.holds<double>()) return f(double{});
    if (q.holds<BFloat16>()) return f(BFloat16{});
    if (q.holds<Float16>()) return f(Float16{});
    throw py::type_error(q.message("dtype float32, bfloat16, float16 or float64", "dtype " + to_string(q.dtype())));
}

template <class T>
Heads<T> heads(const Array& array, const Array& like) {
    array.require<std::remove_const_t<T>>({like.shape(0), like.shape(1), like.shape(2)});
    array.unit_last_stride().on_cpu();
    if (!std::is_const_v<T>) array.writable();
    return {array.data<T>(), array.stride(0), array.stride(1)};
}

template <class S>
AttentionRows rows_of(const Array& q, const Array& cu_seqlens, double rope_base, int threads) {
    q.require<S>({Array::any, Array::any, Array::any});
    const int32_t* start = cu_seqlens.require<int32_t>({Array::any}).contiguous().on_cpu().data<int32_t>();
    const int64_t rows = cu_seqlens.shape(0) - 1;
    if (rows < 0 || start[rows] != q.shape(0))
        throw py::value_error(
            cu_seqlens.message("the number of tokens, " + std::to_string(q.shape(0)) + ", as last entry",
                               rows < 0 ? "no entry" : std::to_string(start[rows])));
    return {start, rows, q.shape(1), q.shape(2), rope_base, threads};
}

void forward(Object q_, Object k_, Object v_, Object cu_seqlens_, double rope_base, Object out_, int threads) {
    const Array q(q_, "q"), k(k_, "k"), v(v_, "v"), cu_seqlens(cu_seqlens_, "cu_seqlens"), out(out_, "out");
    with_element(q, [&](auto element) {
        using S = decltype(element);
        const AttentionRows rows = rows_of<S>(q, cu_seqlens, rope_base, threads);
        const Heads<const S> from[] = {heads<const S>(q, q), heads<const S>(k, q), heads<const S>(v, q)};
        const Heads<S> to = heads<S>(out, q);
        apart({&out}, {&q, &k, &v, &cu_seqlens});
        py::gil_scoped_release nogil;
        attention_forward<S>(rows, from[0], from[1], from[2], to);
    });
}

void backward(Object grad_out_, Object q_, Object k_, Object v_, Object cu_seqlens_, double rope_base, Object grad_q_,
              Object grad_k_, Object grad_v_, int threads) {
    const Array grad_out(grad_out_, "grad_out"), q(q_, "q"), k(k_, "k"), v(v_, "v"),
        cu_seqlens(cu_seqlens_, "cu_seqlens"), grad_q(grad_q_, "grad_q"), grad_k(grad_k_, "grad_k"),
        grad_v(grad_v_, "grad_v");
    with_element(q, [&](auto element) {
        using S = decltype(element);
        const AttentionRows rows = rows_of<S>(q, cu_seqlens, rope_base, threads);
        const Heads<const S> from[] = {heads<const S>(q, q), heads<const S>(k, q), heads<const S>(v, q),
                                       heads<const S>(grad_out, q)};
        const Heads<S> to[] = {heads<S>(grad_q, q), heads<S>(grad_k, q), heads<S>(grad_v, q)};
        apart({&grad_q, &grad_k, &grad_v}, {&grad_out, &q, &k, &v, &cu_seqlens});
        py::gil_scoped_release nogil;
        attention_backward<S>(rows, from[0], from[1], from[2], from[3], to[0], to[1], to[2]);
    });
}

void cached(Object cache_, Object turn_, Object path_, Object length_, Object fresh_, int64_t first, Object out_,
            int threads) {
    const Array cache(cache_, "cache"), turn(turn_, "turn"), path(path_, "path"), length(length_, "length"),
        fresh(fresh_, "fresh"), out(out_, "out");
    cache.require<float>({Array::any, 3, Array::any, Array::any}).contiguous().on_cpu().writable();
    const int64_t heads = cache.shape(2), head_dim = cache.shape(3);
    if (head_dim % 8 || head_dim == 0)
        throw py::value_error(cache.message("a head size that is a multiple of 8", std::to_string(head_dim)));
    within("first", first, 0, cache.shape(0));
    turn.require<float>({Array::any, head_dim}).contiguous().on_cpu();
    path.require<int32_t>({Array::any, Array::any}).contiguous().on_cpu();
    length.require<int32_t>({path.shape(0)}).contiguous().on_cpu();
    fresh.require<int32_t>({path.shape(0)}).contiguous().on_cpu();
    out.require<float>({Array::any, heads, head_dim}).contiguous().on_cpu().writable();
    apart({&cache, &out}, {&turn, &path, &length, &fresh});
    const CachedRows rows{path.shape(0),
                          path.shape(1),
                          path.data<const int32_t>(),
                          length.data<const int32_t>(),
                          fresh.data<const int32_t>(),
                          cache.shape(0),
                          heads,
                          head_dim,
                          first,
                          out.shape(0),
                          turn.shape(0),
                          turn.data<const float>(),
                          threads};
    py::gil_scoped_release nogil;
    Interruption interruption;
    attention_cached(rows, cache.data<float>(), out.data<float>(), interruption);
}

}  // namespace

void bind_attention(py::module_& m) {
    m.attr("attention_row_limit") = attention_row_limit;
    m.def("attention_forward", &forward);
    m.def("attention_backward", &backward);
    m.def("attention_cached", &cached);
}

}  // namespace worldfast
