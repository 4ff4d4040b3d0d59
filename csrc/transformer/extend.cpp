// A step of decoding: new tokens of rows whose earlier ones are in the caches.
#include "transformer/forward.h"

namespace worldfast {
namespace {

template <class S>
void extend(const Model& model, const CachedRows& rows, const int32_t* tokens, float* caches, int32_t* following,
            float* logits, Arena& arena) {
    Interruption interruption;
    const Forward<S> forward(model, arena, rows.threads, interruption);
    const int64_t D = forward.D, H = model.shape.outputs, layers = model.shape.layers;
    std::vector<int64_t> last;  // the last token of each row, among the new ones
    const std::vector<int64_t> before = new_tokens_before(rows);
    for (int64_t r = 0; r < rows.rows; ++r) {
        if (rows.fresh[r] == 0) throw std::invalid_argument("fresh: expected at least 1 new token in each row, got 0");
        last.push_back(before[static_cast<size_t>(r) + 1] - 1);
    }
    float *x = forward.embed(tokens, rows.tokens), *mixed = arena.take<float>(rows.tokens * D);
    float* scale = arena.take<float>(rows.tokens);
    int64_t n = rows.tokens;
    for (int64_t i = 0; i < layers; ++i) {
        const Block<S>& block = forward.layout.blocks[static_cast<size_t>(i)];
        float* cache = caches + i * rows.places * 3 * D;
        float* fresh = cache + rows.first * 3 * D;
        forward.each_block(n,
                           [&](int64_t t, int64_t count) { forward.project(block, x, scale, fresh, 3 * D, t, count); });
        attention_cached(rows, cache, mixed, interruption);
        if (i == layers - 1) {
            x = forward.gather(x, last);
            mixed = forward.gather(mixed, last);
            n = rows.rows;
        }
        forward.each_block(n, [&](int64_t t, int64_t count) {
            forward.add_attention(block, rounded<S>(mixed + t * D, count, D, arena), x + t * D, x + t * D, count);
            S* gate_up = arena.take<S>(count * 2 * forward.F);
            forward.add_mlp(block, x + t * D, scale + t, gate_up, x + t * D, count);
        });
    }
    forward.each_block(n, [&](int64_t t, int64_t count) {
        float* normed = arena.take<float>(count * D);
        forward.norm(x + t * D, forward.layout.norm, count, normed, scale);
        const float* found = forward.logits_of(normed, count);
        if (logits) std::copy(found, found + count * H, logits + t * H);
        for (int64_t r = 0; following && r < count; ++r)
            following[t + r] =
                static_cast<int32_t>(std::max_element(found + r * H, found + (r + 1) * H) - found - r * H);
    });
}

}  // namespace

void extend_rows(const Model& model, const CachedRows& rows, const int32_t* tokens, float* caches, int32_t* following,
                 float* logits, Arena& arena) {
    arena.clear();
    with_operand(model.shape, [&](auto operand) {
        extend<decltype(operand)>(model, rows, tokens, caches, following, logits, arena);
    });
}

}  // namespace worldfast
