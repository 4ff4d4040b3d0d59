// Rows of tasks whose rule is not in tasks.h but given by the caller. Their cities are drawn here, from the same random
// numbers and in the same order as those of all tasks; points go out many rows at a time, and labels come back. So where
// a given rule is that of a native task, so are its rows.
#pragma once

#include "rows/tile.h"

namespace worldfast {

constexpr int64_t given_rows = 4096;  // rows of a block: enough for a call to cost nothing, and few enough for a cache

// Rows start .. start+n-1 of a stream with given rules; the first position without a row, or -1.
int64_t sample_given(const StreamView& stream, int64_t start, int64_t n, Sampled* sampled, const Rule& rule);

// As label_rows, with the rule of a component.
LabelResult label_given(const LabelInput& input, const Component& component, int64_t* out, const Rule& rule);

}  // namespace worldfast
